"""The runner of judges: failing endpoints, order, cache, budget and its thread."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyray.errors import BudgetReached, ConfigError, JudgeError
from polyray.shelf.judge import Candidate, Judgement, JudgeQuality, JudgeRunner, RubricItem, Usage
from polyray.shelf.judge.providers import FORMS
from tests.unit.shelf.judge.judge_server import (
    Asked,
    JudgeServer,
    Reply,
    Script,
    counts_words,
    judge_stream,
)

PROVIDERS = ("anthropic", "openai")
GOOD = {"relevance": 3}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def items(*texts: str) -> list[RubricItem]:
    return [RubricItem(f"i{n}", f"t{n}", "p", f"t{n}", Candidate(text, "x")) for n, text in enumerate(texts)]


def numbered(count: int) -> list[RubricItem]:
    return items(*(f"text {number}" for number in range(count)))


def judged(
    script: Script, asking: list[RubricItem], cache: Path, provider: str = "openai", **changes: Any
) -> tuple[list[Judgement], list[Asked]]:
    """(judgements, requests that the server saw)."""
    with JudgeServer(script) as server:
        spec = server.spec(provider, **{"max_unjudged_share": 1.0, **changes})
        return list(judge_stream(asking, spec, "rubric", cache)), server.asked


def collected(stream: Iterator[Any]) -> tuple[list[Any], Exception | None]:
    rows: list[Any] = []
    try:
        for row in stream:
            rows.append(row)
    except JudgeError as error:
        return rows, error
    return rows, None


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [429, 500, 529])
def test_runner_transient_status_is_retried_after_the_requested_pause(
    provider: str, status: int, cache: Path
) -> None:
    replies = iter([Reply("busy", status=status, headers={"Retry-After": "0.2"}), Reply(GOOD)])
    (row,), asked = judged(lambda asked: next(replies), numbered(1), cache, provider)
    assert row.judged and row.usage.requests == 1
    assert 0.2 <= asked[1].at - asked[0].at < 2.0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_runner_endpoint_without_answers_is_tried_max_attempts_times(provider: str, cache: Path) -> None:
    busy = Reply("overloaded", status=503)
    (row,), asked = judged(lambda asked: busy, numbered(1), cache, provider, max_attempts=3)
    assert len(asked) == 3
    assert re.match(r"no answer: status 503: overloaded .*max_attempts=3", str(row.reason))
    assert row.may_be_asked_again


def test_runner_slow_answer_is_tried_again(cache: Path) -> None:
    replies = iter([Reply(GOOD, delay_s=0.6), Reply(GOOD)])
    (row,), _ = judged(lambda asked: next(replies), numbered(1), cache, timeout_s=0.3)
    assert row.judged


@pytest.mark.parametrize("raw", [b"<html>busy</html>", b"[]", b'{"choices": []}'])
def test_runner_malformed_response_leaves_the_item_unjudged(raw: bytes, cache: Path) -> None:
    (row,), _ = judged(lambda asked: Reply(raw=raw), numbered(1), cache)
    assert str(row.reason).startswith("no answer: ") and row.may_be_asked_again


def test_runner_closed_port_leaves_the_item_unjudged(cache: Path) -> None:
    with JudgeServer(lambda asked: GOOD) as server:
        spec = server.spec(max_attempts=1, max_unjudged_share=1.0)
    (row,) = judge_stream(numbered(1), spec, "rubric", cache)
    assert "APIConnectionError" in str(row.reason)


@pytest.mark.parametrize(
    ("provider", "wanted", "served", "asked_forms", "num_judged"),
    [
        ("anthropic", "auto", "text", [*FORMS["anthropic"], "text"], 2),
        ("openai", "auto", "text", [*FORMS["openai"], "text"], 2),
        ("anthropic", "auto", "json_schema", ["tool", "json_schema", "json_schema"], 2),
        ("openai", "tool", "text", ["tool", "tool"], 0),
    ],
)
def test_runner_answer_form_is_the_first_that_the_endpoint_accepts(
    provider: str, wanted: str, served: str, asked_forms: list[str], num_judged: int, cache: Path
) -> None:
    def script(asked: Asked) -> Reply | dict[str, Any]:
        return GOOD if asked.structured == served else Reply("not this form", status=400)

    options = {"structured_output": wanted, "concurrency": 1}
    rows, asked = judged(script, numbered(2), cache, provider, **options)
    assert [each.structured for each in asked] == asked_forms
    assert sum(row.judged for row in rows) == num_judged


@pytest.mark.parametrize("provider", PROVIDERS)
def test_runner_request_refused_in_every_form_decides_no_form(provider: str, cache: Path) -> None:
    def script(asked: Asked) -> Reply | dict[str, Any]:
        return Reply("prompt is too long", status=400) if "huge" in asked.user else GOOD

    rows, asked = judged(script, items("huge", "fine", "huge 2"), cache, provider, concurrency=1)
    reason = "refused: status 400: prompt is too long"
    assert [row.reason for row in rows] == [reason, None, reason]
    preferred = FORMS[provider][0]
    assert [each.structured for each in asked] == [*FORMS[provider], preferred, preferred]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_runner_refused_key_ends_the_job_without_showing_it(
    provider: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with JudgeServer(lambda asked: Reply("invalid key", status=401)) as server:
        spec = server.spec(provider, api_key_env="MY_KEY")
        with pytest.raises(JudgeError, match=r"401: invalid key.* MY_KEY") as caught:
            list(judge_stream(numbered(5), spec, "rubric", cache))
        assert "Bearer sk-very-secret" in server.asked[0].headers.values()
    assert "sk-very-secret" not in str(caught.value)


def test_runner_unknown_model_ends_the_job(cache: Path) -> None:
    with pytest.raises(JudgeError, match=r"judge\.model='m'"):
        judged(lambda asked: Reply("no such model", status=404), numbered(1), cache)


def test_runner_unset_key_variable_is_refused_before_the_first_request(cache: Path) -> None:
    with JudgeServer(lambda asked: GOOD) as server, pytest.raises(ConfigError, match="NOT_SET"):
        JudgeRunner(server.spec(api_key_env="NOT_SET"), "rubric", cache)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_runner_keys_in_the_sdks_own_variables_are_not_sent(
    provider: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-not-for-this-endpoint")
    _, asked = judged(lambda asked: GOOD, numbered(1), cache, provider)
    assert not any("sk-not-for-this" in value for value in asked[0].headers.values())


def test_runner_concurrent_answers_keep_the_order_of_items(cache: Path) -> None:
    together = threading.Barrier(5)

    def script(asked: Asked) -> Reply:
        together.wait(timeout=10)  # breaks unless five requests are there at once
        number = int(asked.texts["candidate"].split()[1])
        return Reply({"relevance": number % 5 + 1}, delay_s=0.02 * (5 - number % 5))

    with JudgeServer(script) as server:
        rows = list(judge_stream(numbered(20), server.spec(concurrency=5), "rubric", cache))
        assert server.most_in_flight == 5
    assert [row.item_id for row in rows] == [f"i{number}" for number in range(20)]
    assert [row.result["scores"]["relevance"] for row in rows] == [number % 5 + 1 for number in range(20)]


def test_runner_known_and_equal_requests_are_sent_once(cache: Path) -> None:
    first, asked = judged(lambda asked: Reply(GOOD, delay_s=0.1), items("a", "b", "a", "a"), cache)
    assert len(asked) == 2 and [row.result["quality"] for row in first] == [0.5] * 4
    second, asked = judged(lambda asked: GOOD, items("a", "b", "c"), cache, concurrency=2)
    assert len(asked) == 1
    assert second[:2] == first[:2], "the usage of a cached answer is what it cost the first time"


def test_runner_budget_stops_before_its_limit_and_keeps_judged_items(cache: Path) -> None:
    # 100 input, 40 of them cached, and 10 output: 60 x 1 + 40 x 0.5 + 10 x 10 = 180 millionths a request
    values = {"prices": {"input": 1, "output": 10, "cached_input": 0.5}, "concurrency": 2}
    with JudgeServer(counts_words) as server:

        def start(max_cost_usd: float) -> tuple[list[Any], Exception | None]:
            spec = server.spec(budget={"max_cost_usd": max_cost_usd}, **values)
            return collected(judge_stream(numbered(9), spec, "rubric", cache, owner="r"))

        rows, error = start(900e-6)
        assert isinstance(error, BudgetReached) and "judge.budget.max_cost_usd=0.0009" in str(error)
        assert [row.item_id for row in rows] == [f"i{number}" for number in range(5)]
        assert sum((row.usage for row in rows), Usage()).cost_usd == pytest.approx(900e-6)
        assert isinstance(start(900e-6)[1], BudgetReached) and len(server.asked) == 5
        assert len(start(1.0)[0]) == 9 and len(server.asked) == 9


@pytest.mark.parametrize(
    ("count", "share", "num_rows", "message"),
    [
        (100, 0.2, 20, r"20 of 20 items .*judge\.max_unjudged_share=0\.2"),
        (4, 0.2, 4, "1 of 4 items"),
        (4, 0.25, 4, None),
    ],
)
def test_runner_unjudged_share_above_its_limit_stops_the_job(
    count: int, share: float, num_rows: int, message: str | None, cache: Path
) -> None:
    def script(asked: Asked) -> dict[str, Any] | str:
        return "nonsense" if count == 100 or "text 0" in asked.user else GOOD

    with JudgeServer(script) as server:
        spec = server.spec(max_retries=0, max_unjudged_share=share, concurrency=2)
        rows, error = collected(judge_stream(numbered(count), spec, "rubric", cache))
        assert len(server.asked) < 60
    assert len(rows) == num_rows
    assert (error is None) if message is None else re.search(message, str(error))


def test_runner_submit_needs_no_reader(cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    more, read = numbered(32), []
    with (
        JudgeServer(lambda asked: GOOD) as server,
        JudgeRunner(
            server.spec(concurrency=1),
            "rubric",
            cache,
            progress=lambda done, usage: seen.append((done, usage.requests)),
        ) as runner,
    ):
        for each in more[:30]:  # more than may be in work at a time
            runner.submit(each)
        read.append(next(results := runner.results()))
        reader = threading.Thread(target=lambda: read.extend(results))
        reader.start()
        runner.submit(more[30])
        runner.finish()
        reader.join(timeout=10)
        assert not reader.is_alive()
        with pytest.raises(RuntimeError, match=r"finish\(\)"):
            runner.submit(more[31])
    assert [row.item_id for row in read] == [f"i{number}" for number in range(31)]
    assert [done for done, _ in seen] == list(range(1, 32)) and seen[-1] == (31, 31)


def test_runner_closed_early_leaves_no_thread(cache: Path) -> None:
    before = set(threading.enumerate())  # other tests of this process may have left some
    with JudgeServer(lambda asked: Reply(GOOD, delay_s=0.3)) as server:
        stream = judge_stream(numbered(50), server.spec(concurrency=2), "rubric", cache)
        next(stream)
        assert [thread.name for thread in set(threading.enumerate()) - before].count("judge") == 1
        stream.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "judge"]


def test_quality_of_texts_is_none_where_unjudged_and_raises_without_budget(cache: Path) -> None:
    def script(asked: Asked) -> dict[str, Any] | str:
        return "?" if asked.texts["candidate"] == "bad" else counts_words(asked)

    with JudgeServer(script) as server:
        spec = server.spec(max_retries=0, budget={"max_tokens": 440})
        with JudgeQuality(spec, cache) as judge:
            assert judge.score_many([("p", "one"), ("p", "bad"), ("p", "1 2 3 4 5")]) == [0.0, None, 1.0]
            assert judge.score_many([("p", "1 2 3")]) == [0.5]
            assert judge.score_many([]) == []
            (reason,) = judge.unjudged
            assert "JSON object" in reason and judge.spent.requests == 4
            for _ in range(2):
                with pytest.raises(BudgetReached):
                    judge.score_many([("p", "two words")])
