"""Answers on disk survive a kill at any byte; a budget admits no request that it cannot pay."""

from __future__ import annotations

from pathlib import Path

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


def test_stored_answers_are_read_back_with_their_usage(tmp_path: Path) -> None:
    filled(tmp_path / "a.jsonl")
    with AnswerCache(tmp_path / "a.jsonl", "run") as cache:
        assert [cache.get(f"key-{n}") for n in range(3)] == ANSWERS
        assert cache.get("key-3") is None
        assert cache.paid == Usage(requests=3, input_tokens=303, cached_tokens=3, output_tokens=30)
    with AnswerCache(tmp_path / "a.jsonl", "another run") as cache:
        assert len(cache) == 3
        assert cache.paid == Usage()


def test_a_file_torn_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    content = filled(tmp_path / "whole.jsonl")
    ends = [end + 1 for end, byte in enumerate(content) if byte == ord("\n")]
    for cut in sorted(
        {*range(0, len(content), 11), *(end + offset for end in ends for offset in (-2, -1, 0))}
    ):
        path = tmp_path / "torn.jsonl"
        path.write_bytes(content[:cut])
        with AnswerCache(path, "run") as cache:
            assert len(cache) == sum(end <= cut for end in ends)
            cache.put("later", ANSWERS[0])
            assert cache.get("later") == ANSWERS[0]
        with AnswerCache(path, "run") as cache:
            assert cache.get("later") == ANSWERS[0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(filled(tmp_path / "b.jsonl") + b'{"key": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:4"):
        AnswerCache(path)
    path.write_bytes(b"{not json}\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        AnswerCache(path)


def test_two_judges_cannot_share_a_file_at_the_same_time(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "a.jsonl"), pytest.raises(ConfigError, match=r"a\.jsonl .*cache_dir"):
        AnswerCache(tmp_path / "a.jsonl")
    AnswerCache(tmp_path / "a.jsonl").close()


def test_request_hash_covers_exactly_the_inputs_of_an_answer() -> None:
    spec = JudgeSpec(provider="openai", model="m")
    request = ChatRequest(Question("s", "u", {"type": "object"}, "n"))
    others = [
        (JudgeSpec(provider="anthropic", model="m"), request),
        (JudgeSpec(provider="openai", model="m2"), request),
        (JudgeSpec(provider="openai", model="m", temperature=0.0), request),
        (JudgeSpec(provider="openai", model="m", max_tokens=7), request),
        (JudgeSpec(provider="openai", model="m", structured_output="text"), request),
        (spec, ChatRequest(Question("s2", "u", {"type": "object"}, "n"))),
        (spec, ChatRequest(Question("s", "u2", {"type": "object"}, "n"))),
        (spec, ChatRequest(Question("s", "u", {"type": "array"}, "n"))),
        (spec, ChatRequest(request.question, ({"role": "user", "content": "again"},))),
    ]
    assert len({request_sha256(*other) for other in [(spec, request), *others]}) == 10
    elsewhere = JudgeSpec(provider="openai", model="m", base_url="http://x/v1", concurrency=1, timeout_s=1)
    assert request_sha256(elsewhere, request) == request_sha256(spec, request)


def test_prices_are_per_million_and_cached_tokens_have_their_own() -> None:
    usage = Usage(1, input_tokens=1000, cached_tokens=400, output_tokens=50)
    # 600 x 3 + 400 x 0.3 + 50 x 15 = 2670 millionths
    assert priced(usage, PriceSpec(input=3, output=15, cached_input=0.3)).cost_usd == pytest.approx(2670e-6)
    assert priced(usage, PriceSpec(input=3, output=15)).cost_usd == pytest.approx(3750e-6)
    assert priced(usage, None).cost_usd == 0.0


def ledger(paid: Usage | None = None, **budget: float) -> Ledger:
    spec = JudgeSpec.model_validate(
        {"provider": "openai", "model": "m", "prices": {"input": 1, "output": 1}, "budget": budget}
    )
    return Ledger(spec, paid or Usage())


def test_token_budget_counts_requests_in_flight() -> None:
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


def test_a_budget_of_money_can_be_spent_to_the_last_cent() -> None:
    book = ledger(max_cost_usd=7e-4)
    for _ in range(7):  # 7 x 0.0001 is not 0.0007 in floats
        book.admit()
        book.settle(Usage(1, 100, 0, 0))
    with pytest.raises(BudgetReached, match=r"0\.000700 of judge\.budget\.max_cost_usd=0\.0007"):
        book.admit()


def test_a_budget_covers_earlier_starts() -> None:
    with pytest.raises(BudgetReached):
        ledger(Usage(1, 100, 0, 0), max_cost_usd=1e-4).admit()
    with pytest.raises(BudgetReached):  # 200 spent by two answers: a third is expected to cost 100
        ledger(Usage(2, 200, 0, 0), max_tokens=299).admit()
    book = ledger(Usage(2, 200, 0, 0), max_tokens=300)
    book.admit()
    assert book.settle(Usage(1, 10, 0, 0)).cost_usd == pytest.approx(10e-6)
    assert (book.spent.requests, book.spent_now.requests) == (3, 1)
