"""Answers on disk survive a kill at any byte; a budget admits no request that it cannot pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyray.config.judge import JudgeSpec, PriceSpec
from polyray.errors import BudgetReached, ConfigError, DataError
from polyray.shelf.judge.cache import AnswerCache, request_sha256
from polyray.shelf.judge.items import Usage
from polyray.shelf.judge.ledger import Ledger, priced
from polyray.shelf.judge.providers import ChatAnswer, ChatRequest
from polyray.shelf.judge.questions import Question

ANSWERS = [ChatAnswer(f'{{"é": "{n}"}}', "stop", 100 + n, n, 10) for n in range(3)]


def filled(path: Path, owner: str = "run") -> bytes:
    with AnswerCache(path, owner) as cache:
        for number, answer in enumerate(ANSWERS):
            cache.put(f"key-{number}", answer)
    return path.read_bytes()


def test_answer_cache_reads_back_answers_and_counts_its_own_usage(tmp_path: Path) -> None:
    filled(tmp_path / "a.jsonl")
    with AnswerCache(tmp_path / "a.jsonl", "run") as cache:
        assert [cache.get(f"key-{n}") for n in range(4)] == [*ANSWERS, None]
        assert cache.paid == Usage(requests=3, input_tokens=303, cached_tokens=3, output_tokens=30)
        with pytest.raises(ConfigError, match=r"a\.jsonl .*cache_dir"):
            AnswerCache(tmp_path / "a.jsonl")
    with AnswerCache(tmp_path / "a.jsonl", "another run") as cache:
        assert (len(cache), cache.paid) == (3, Usage())


def test_answer_cache_torn_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    content = filled(tmp_path / "whole.jsonl")
    ends = [end + 1 for end, byte in enumerate(content) if byte == ord("\n")]
    cuts = {*range(0, len(content), 11), *(end + offset for end in ends for offset in (-2, -1, 0))}
    path = tmp_path / "torn.jsonl"
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        with AnswerCache(path, "run") as cache:
            assert len(cache) == sum(end <= cut for end in ends)
            cache.put("later", ANSWERS[0])
            assert cache.get("later") == ANSWERS[0]
        with AnswerCache(path, "run") as cache:
            assert cache.get("later") == ANSWERS[0]


@pytest.mark.parametrize(("lines", "at"), [(b'{"key": 1}\n', 4), (b"{not json}\n", 4)])
def test_answer_cache_names_a_broken_line(tmp_path: Path, lines: bytes, at: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(filled(tmp_path / "b.jsonl") + lines)
    with pytest.raises(DataError, match=rf"a\.jsonl:{at}"):
        AnswerCache(path)


def test_request_hash_covers_exactly_the_inputs_of_an_answer() -> None:
    question = Question("s", "u", {"type": "object"}, "n")
    request = ChatRequest(question)

    def spec(**changes: Any) -> JudgeSpec:
        return JudgeSpec.model_validate({"provider": "openai", "model": "m", **changes})

    specs = ({"provider": "anthropic"}, {"model": "m2"}, {"temperature": 0.0}, {"max_tokens": 7},
             {"structured_output": "text"})  # fmt: skip
    questions = ({"system": "s2"}, {"user": "u2"}, {"schema": {"type": "array"}})
    hashes = {request_sha256(spec(**changes), request) for changes in ({}, *specs)}
    hashes |= {request_sha256(spec(), ChatRequest(replace(question, **changes))) for changes in questions}
    hashes.add(request_sha256(spec(), ChatRequest(question, ({"role": "user", "content": "again"},))))
    assert len(hashes) == 1 + 5 + 3 + 1
    elsewhere = spec(base_url="http://x/v1", concurrency=1, timeout_s=1)
    assert request_sha256(elsewhere, request) == request_sha256(spec(), request)


@pytest.mark.parametrize(
    ("prices", "millionths"),
    [
        (PriceSpec(input=3, output=15, cached_input=0.3), 600 * 3 + 400 * 0.3 + 50 * 15),
        (PriceSpec(input=3, output=15), 1000 * 3 + 50 * 15),
        (None, 0),
    ],
)
def test_priced_usage_is_per_million_tokens(prices: PriceSpec | None, millionths: float) -> None:
    usage = Usage(1, input_tokens=1000, cached_tokens=400, output_tokens=50)
    assert priced(usage, prices).cost_usd == pytest.approx(millionths * 1e-6)


def ledger(paid: Usage | None = None, **budget: float) -> Ledger:
    spec = JudgeSpec.model_validate(
        {"provider": "openai", "model": "m", "prices": {"input": 1, "output": 1}, "budget": budget}
    )
    return Ledger(spec, paid or Usage())


def test_ledger_counts_requests_in_flight() -> None:
    book = ledger(max_tokens=350)
    book.admit()
    book.settle(Usage(1, 90, 0, 10))  # 100 spent, and the dearest answer costs 100
    book.admit()
    book.admit()  # 100 spent and 200 expected; a third would make 400
    with pytest.raises(BudgetReached, match=r"100 of judge\.budget\.max_tokens=350 .*2 requests"):
        book.admit()
    book.settle(None)  # a request that failed costs nothing
    book.admit()
    assert book.spent.total_tokens == 100


def test_ledger_spends_money_to_the_last_cent() -> None:
    book = ledger(max_cost_usd=7e-4)
    for _ in range(7):  # 7 x 0.0001 is not 0.0007 in floats
        book.admit()
        book.settle(Usage(1, 100, 0, 0))
    with pytest.raises(BudgetReached, match=r"0\.000700 of judge\.budget\.max_cost_usd=0\.0007"):
        book.admit()


def test_ledger_covers_earlier_starts() -> None:
    with pytest.raises(BudgetReached):
        ledger(Usage(1, 100, 0, 0), max_cost_usd=1e-4).admit()
    with pytest.raises(BudgetReached):  # 200 spent by two answers: a third is expected to cost 100
        ledger(Usage(2, 200, 0, 0), max_tokens=299).admit()
    book = ledger(Usage(2, 200, 0, 0), max_tokens=300)
    book.admit()
    assert book.settle(Usage(1, 10, 0, 0)).cost_usd == pytest.approx(10e-6)
    assert (book.spent.requests, book.spent_now.requests) == (3, 1)
