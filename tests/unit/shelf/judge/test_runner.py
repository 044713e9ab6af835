"""The runner of judges: failing endpoints, order, cache, budget and its thread."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyray.errors import BudgetReached, ConfigError, JudgeError
from polyray.shelf.judge import Candidate, JudgeQuality, JudgeRunner, RubricItem, Usage
from polyray.shelf.judge.providers import FORMS, retry_after
from tests.unit.shelf.judge.judge_server import Asked, JudgeServer, Reply, counts_words, judge_stream

PROVIDERS = ("anthropic", "openai")
GOOD = {"relevance": 3}


def item(number: int, text: str = "") -> RubricItem:
    return RubricItem(f"i{number}", f"t{number}", "p", f"t{number}", Candidate(text or f"text {number}", "x"))


def items(count: int) -> list[RubricItem]:
    return [item(number) for number in range(count)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rate_limit_pauses_all_requests_until_its_end(provider: str, tmp_path: Path) -> None:
    refusals = itertools.count()

    def script(asked: Asked) -> Reply | dict[str, Any]:
        if next(refusals) == 0:
            return Reply("slow down", status=429, headers={"Retry-After": "0.4"})
        return GOOD

    with JudgeServer(script) as server:
        spec = server.spec(provider, concurrency=1)
        rows = list(judge_stream(items(3), spec, "rubric", tmp_path / "a.jsonl"))
        times = [asked.at for asked in server.asked]
    assert [row.result["quality"] for row in rows] == [0.5] * 3
    assert len(times) == 4
    assert times[1] - times[0] >= 0.4
    assert times[3] - times[1] < 0.35, "the pause is over for the others as well"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [500, 503, 529])
def test_server_errors_are_tried_again(provider: str, status: int, tmp_path: Path) -> None:
    replies = iter([Reply("oops", status=status), Reply("oops", status=status), Reply(GOOD)])
    with JudgeServer(lambda asked: next(replies)) as server:
        (row,) = judge_stream(items(1), server.spec(provider), "rubric", tmp_path / "a.jsonl")
    assert row.judged
    assert row.usage.requests == 1, "only answers are paid for"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_endpoint_that_never_answers_leaves_a_reason(provider: str, tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Reply("overloaded", status=503)) as server:
        spec = server.spec(provider, max_attempts=3, max_unjudged_share=1.0)
        (row,) = judge_stream(items(1), spec, "rubric", tmp_path / "a.jsonl")
        assert len(server.asked) == 3
    assert re.match("no answer: 3 .*503: overloaded$", str(row.reason))
    assert row.may_be_asked_again


def test_a_time_out_is_tried_again(tmp_path: Path) -> None:
    replies = iter([Reply(GOOD, delay_s=1.0), Reply(GOOD)])
    with JudgeServer(lambda asked: next(replies)) as server:
        (row,) = judge_stream(items(1), server.spec(timeout_s=0.3), "rubric", tmp_path / "a.jsonl")
    assert row.judged


@pytest.mark.parametrize("raw", [b"<html>busy</html>", b"[]", b'{"choices": []}'])
def test_malformed_response_leaves_the_item_unjudged(raw: bytes, tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Reply(raw=raw)) as server:
        spec = server.spec(max_attempts=2, max_unjudged_share=1.0)
        (row,) = judge_stream(items(1), spec, "rubric", tmp_path / "a.jsonl")
    assert str(row.reason).startswith("no answer: 2 ")


def test_closed_port_leaves_the_item_unjudged(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: GOOD) as server:
        spec = server.spec(max_attempts=2, max_unjudged_share=1.0)
    (row,) = judge_stream(items(1), spec, "rubric", tmp_path / "a.jsonl")
    assert "APIConnectionError" in str(row.reason)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_endpoint_without_structured_output_is_asked_in_text(provider: str, tmp_path: Path) -> None:
    def script(asked: Asked) -> Reply | dict[str, Any]:
        return GOOD if asked.structured == "text" else Reply("no tools, no schema", status=400)

    with JudgeServer(script) as server:
        rows = list(
            judge_stream(items(3), server.spec(provider, concurrency=1), "rubric", tmp_path / "a.jsonl")
        )
        assert [asked.structured for asked in server.asked] == [*FORMS[provider], "text", "text"]
    assert all(row.judged for row in rows)


def test_an_endpoint_without_tools_is_given_a_schema(tmp_path: Path) -> None:
    def script(asked: Asked) -> Reply | dict[str, Any]:
        return GOOD if asked.structured == "json_schema" else Reply("needs a tool-call parser", status=400)

    with JudgeServer(script) as server:
        spec = server.spec("anthropic", concurrency=1)
        rows = list(judge_stream(items(2), spec, "rubric", tmp_path / "a.jsonl"))
        assert [asked.structured for asked in server.asked] == ["tool", "json_schema", "json_schema"]
    assert all(row.judged for row in rows)


def test_a_form_that_is_asked_for_is_the_only_one(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Reply("no tools", status=400)) as server:
        spec = server.spec(structured_output="tool", max_unjudged_share=1.0)
        (row,) = judge_stream(items(1), spec, "rubric", tmp_path / "a.jsonl")
        assert [asked.structured for asked in server.asked] == ["tool"]
    assert row.reason == "refused: status 400: no tools"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_request_that_is_refused_in_every_form_is_unjudged(provider: str, tmp_path: Path) -> None:
    def script(asked: Asked) -> Reply | dict[str, Any]:
        return Reply("prompt is too long", status=400) if "huge" in asked.user else GOOD

    with JudgeServer(script) as server:
        spec = server.spec(provider, concurrency=1, max_unjudged_share=1.0)
        rows = list(
            judge_stream([item(0, "huge"), item(1), item(2, "huge 2")], spec, "rubric", tmp_path / "a")
        )
        asked = [asked.structured for asked in server.asked]
    reason = "refused: status 400: prompt is too long"
    assert [row.reason for row in rows] == [reason, None, reason]
    preferred = FORMS[provider][0]
    assert asked == [*FORMS[provider], preferred, preferred], "once a form has worked, no other is tried"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_key_ends_the_job_and_is_not_shown(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with JudgeServer(lambda asked: Reply("invalid key", status=401)) as server:
        spec = server.spec(provider, api_key_env="MY_KEY")
        with pytest.raises(JudgeError, match=r"401: invalid key.* MY_KEY") as caught:
            list(judge_stream(items(5), spec, "rubric", tmp_path / "a.jsonl"))
        assert "Bearer sk-very-secret" in server.asked[0].headers.values()
    assert "sk-very-secret" not in str(caught.value)


def test_a_model_that_does_not_exist_ends_the_job(tmp_path: Path) -> None:
    with (
        JudgeServer(lambda asked: Reply("no such model", status=404)) as server,
        pytest.raises(JudgeError, match=r"judge\.model='m'"),
    ):
        list(judge_stream(items(1), server.spec(), "rubric", tmp_path / "a.jsonl"))


def test_unset_key_is_refused_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with JudgeServer(lambda asked: GOOD) as server, pytest.raises(ConfigError, match="NOT_SET"):
        JudgeRunner(server.spec(api_key_env="NOT_SET"), "rubric", tmp_path / "a.jsonl")


def test_keys_in_the_variables_of_the_sdks_are_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-not-for-this-endpoint")
    for provider in PROVIDERS:
        with JudgeServer(lambda asked: GOOD) as server:
            list(judge_stream(items(1), server.spec(provider), "rubric", tmp_path / provider))
            assert not any("sk-not-for-this" in value for value in server.asked[0].headers.values())


def test_results_keep_the_order_of_the_items(tmp_path: Path) -> None:
    def script(asked: Asked) -> Reply:
        number = int(asked.texts["candidate"].split()[1])
        return Reply({"relevance": number % 5 + 1}, delay_s=0.02 * (7 - number % 8))

    with JudgeServer(script) as server:
        rows = list(judge_stream(items(24), server.spec(concurrency=8), "rubric", tmp_path / "a.jsonl"))
    assert [row.item_id for row in rows] == [f"i{number}" for number in range(24)]
    assert [row.result["scores"]["relevance"] for row in rows] == [number % 5 + 1 for number in range(24)]


def test_as_many_requests_are_in_flight_as_configured_and_no_more(tmp_path: Path) -> None:
    together = threading.Barrier(5)

    def script(asked: Asked) -> dict[str, Any]:
        together.wait(timeout=10)  # breaks, and the server with it, unless five are there at once
        return GOOD

    with JudgeServer(script) as server:
        rows = list(judge_stream(items(20), server.spec(concurrency=5), "rubric", tmp_path / "a.jsonl"))
        assert server.most_in_flight == 5
    assert len(rows) == 20


def test_second_run_asks_for_new_items_only(tmp_path: Path) -> None:
    with JudgeServer(counts_words) as server:
        first = list(judge_stream(items(5), server.spec(), "rubric", tmp_path / "a.jsonl"))
        assert len(server.asked) == 5
        second = list(judge_stream(items(6), server.spec(concurrency=2), "rubric", tmp_path / "a.jsonl"))
        assert len(server.asked) == 6
    assert second[:5] == first, "what they cost is what they cost the first time"


def test_equal_requests_in_flight_are_sent_once(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Reply(GOOD, delay_s=0.1)) as server:
        same = [item(number, "same") for number in range(6)]
        rows = list(judge_stream(same, server.spec(), "rubric", tmp_path / "a.jsonl"))
        assert len(server.asked) == 1
    assert [row.result["quality"] for row in rows] == [0.5] * 6


def test_budget_stops_before_its_limit_and_keeps_judged_items(tmp_path: Path) -> None:
    # 100 input, 40 of them cached, and 10 output: 60 x 1 + 40 x 0.5 + 10 x 10 = 180 millionths a request
    values = {"prices": {"input": 1, "output": 10, "cached_input": 0.5}, "concurrency": 2}
    rows: list[Any] = []
    with JudgeServer(counts_words) as server:
        spec = server.spec(budget={"max_cost_usd": 900e-6}, **values)
        with pytest.raises(BudgetReached, match=r"judge\.budget\.max_cost_usd=0\.0009"):
            _collect(judge_stream(items(9), spec, "rubric", tmp_path / "a.jsonl", owner="r"), rows)
        assert len(server.asked) == 5, "five requests of 180 cost 900"
        assert [row.item_id for row in rows] == [f"i{number}" for number in range(5)]
        assert sum((row.usage for row in rows), Usage()).cost_usd == pytest.approx(900e-6)

        with pytest.raises(BudgetReached):  # started again without more money: not one request
            list(judge_stream(items(9), spec, "rubric", tmp_path / "a.jsonl", owner="r"))
        assert len(server.asked) == 5

        richer = server.spec(budget={"max_cost_usd": 1}, **values)
        assert len(list(judge_stream(items(9), richer, "rubric", tmp_path / "a.jsonl", owner="r"))) == 9
        assert len(server.asked) == 9, "only what was missing"


def _collect(stream: Iterator[Any], rows: list[Any]) -> None:
    """Collect the rows before an error."""
    for row in stream:
        rows.append(row)


def test_a_judge_that_answers_nonsense_is_stopped(tmp_path: Path) -> None:
    rows: list[Any] = []
    with JudgeServer(lambda asked: "well") as server:
        spec = server.spec(max_retries=0, max_unjudged_share=0.2, concurrency=2)
        with pytest.raises(JudgeError, match=r"20 of 20 items .*judge\.max_unjudged_share=0\.2"):
            _collect(judge_stream(items(100), spec, "rubric", tmp_path / "a.jsonl"), rows)
        assert len(rows) == 20, "the rows are out before the job stops"
        assert len(server.asked) < 60


def test_a_few_unjudged_items_do_not_stop_a_job_but_too_many_of_a_few_do(tmp_path: Path) -> None:
    def script(asked: Asked) -> dict[str, Any] | str:
        return "well" if "text 0" in asked.user else GOOD

    with JudgeServer(script) as server:
        lenient = server.spec(max_retries=0, max_unjudged_share=0.25)
        rows = list(judge_stream(items(4), lenient, "rubric", tmp_path / "a.jsonl"))
        assert [row.judged for row in rows] == [False, True, True, True]
        strict = server.spec(max_retries=0, max_unjudged_share=0.2)
        with pytest.raises(JudgeError, match="1 of 4 items"):
            list(judge_stream(items(4), strict, "rubric", tmp_path / "a.jsonl"))


def test_submitting_and_reading_overlap(tmp_path: Path) -> None:
    """Results are there while the producer is still busy; the producer never waits for the reader."""
    with (
        JudgeServer(lambda asked: GOOD) as server,
        JudgeRunner(server.spec(concurrency=1), "rubric", tmp_path / "a.jsonl") as runner,
    ):
        for number in range(30):  # more than may be in work at a time, without a reader
            runner.submit(item(number))
        results = runner.results()
        assert next(results).item_id == "i0"
        runner.submit(item(30))
        runner.finish()
        assert [row.item_id for row in results] == [f"i{number}" for number in range(1, 31)]
        with pytest.raises(RuntimeError, match=r"finish\(\)"):
            runner.submit(item(31))


def test_a_reader_in_another_thread_ends_with_the_producer(tmp_path: Path) -> None:
    read: list[str] = []
    with (
        JudgeServer(lambda asked: GOOD) as server,
        JudgeRunner(server.spec(), "rubric", tmp_path / "a.jsonl") as runner,
    ):
        reader = threading.Thread(target=lambda: read.extend(row.item_id for row in runner.results()))
        reader.start()
        runner.submit(item(0))
        while not read and reader.is_alive():
            time.sleep(0.01)
        runner.finish()
        reader.join(timeout=10)
        assert not reader.is_alive()
    assert read == ["i0"]


def test_closing_early_leaves_no_thread(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Reply(GOOD, delay_s=0.3)) as server:
        before = set(threading.enumerate())
        stream = judge_stream(items(50), server.spec(concurrency=2), "rubric", tmp_path / "a.jsonl")
        next(stream)
        stream.close()
        left = set(threading.enumerate()) - before
        assert not [thread for thread in left if thread.name == "judge"]
        assert len(left) <= 4  # the server's own connections


def test_progress_counts_items_and_money(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with JudgeServer(lambda asked: GOOD) as server:
        options = {"progress": lambda done, usage: seen.append((done, usage.requests))}
        list(judge_stream(items(3), server.spec(concurrency=1), "rubric", tmp_path / "a.jsonl", **options))
    assert [done for done, _ in seen] == [1, 2, 3]
    assert seen[-1] == (3, 3)


def test_quality_in_batches(tmp_path: Path) -> None:
    def script(asked: Asked) -> dict[str, Any] | str:
        return "?" if asked.texts["candidate"] == "bad" else counts_words(asked)

    with (
        JudgeServer(script) as server,
        JudgeQuality(server.spec(max_retries=0), tmp_path / "a.jsonl") as judge,
    ):
        assert judge.score_many([("p", "one"), ("p", "bad"), ("p", "1 2 3 4 5")]) == [0.0, None, 1.0]
        assert judge.score_many([("p", "1 2 3")]) == [0.5]
        assert judge.score_many([]) == []
        assert judge.unjudged == [
            "invalid answer in 1 tries, the last one: there is no complete JSON object in the answer"
        ]
        assert judge.spent.requests == 4


def test_quality_raises_again_after_the_end_of_the_money(tmp_path: Path) -> None:
    with JudgeServer(counts_words) as server:
        spec = server.spec(budget={"max_tokens": 100})
        with JudgeQuality(spec, tmp_path / "a.jsonl") as judge:
            assert judge.score_many([("p", "one")]) == [0.0]
            for _ in range(2):
                with pytest.raises(BudgetReached):
                    judge.score_many([("p", "two words")])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
