"""The reward client under a fake clock: what is sent when, and what becomes of every answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from polyray.config.remote_reward import ClientSpec
from polyray.errors import RewardError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.client import AsyncRewardServiceClient, RewardServiceClient
from polyray.rewards.protocol import MAX_TEXT_CHARS
from polyray.rewards.wires import PolyrayWire

URL = "http://rewards.test/run/reward"
ITEMS = [ScoreItem("p", "a"), ScoreItem("p", "b", "r", {"n": 1}, ({"role": "user", "content": "p"},))]
GOOD = {
    "reward_model": "m",
    "version": "1",
    "scores": [
        {"score": 0.5, "class": 3, "components": {"x": 2.0}, "error": None},
        {"score": None, "class": -1, "components": {}, "error": "why"},
    ],
    "a later field": 1,
}
Step = httpx.Response | Exception


class Clock:
    """Clock that advances only during waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Service:
    """Answers with one step after the other, then with a score per item that is its completion's number."""

    def __init__(self, *steps: Step, clock: Clock | None = None, takes_s: float = 0.0) -> None:
        self.steps = list(steps)
        self.clock, self.takes_s = clock, takes_s
        self.requests: list[httpx.Request] = []

    @property
    def sizes(self) -> list[int]:
        return [len(json.loads(request.content)["items"]) for request in self.requests]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.clock is not None:
            self.clock.now += self.takes_s
        if self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            return step
        return numbered(request)


def numbered(request: httpx.Request) -> httpx.Response:
    items = json.loads(request.content)["items"]
    scores = [{"score": 0, "class": int(item["completion"])} for item in items]
    return httpx.Response(200, json={"reward_model": "m", "version": "1", "scores": scores})


def client(
    handler: Callable[[httpx.Request], httpx.Response], clock: Clock | None = None, **changes: Any
) -> AsyncRewardServiceClient:
    clock = clock or Clock()
    options = {key: changes.pop(key) for key in ("token", "wire") if key in changes}
    spec = ClientSpec(**{"backoff_s": 1.0, "max_backoff_s": 8.0, "concurrency": 1} | changes)
    return AsyncRewardServiceClient(
        URL + "/",
        spec,
        transport=httpx.MockTransport(handler),
        clock=clock,
        wall_clock=lambda: 1_000.0 + clock.now,
        sleep=clock.sleep,
        uniform=lambda low, high: (low + high) / 2,
        **options,
    )


def items(number: int) -> list[ScoreItem]:
    return [ScoreItem("p", str(at)) for at in range(number)]


async def test_items_go_out_and_scores_come_back() -> None:
    service = Service(httpx.Response(200, json=GOOD))
    scored = await client(service, token="secret", wire=PolyrayWire("eval")).score(ITEMS)
    assert scored.scores == (Score(0.5, 3, {"x": 2.0}), Score(None, -1, {}, "why"))
    assert scored.failures == ()
    (request,) = service.requests
    assert str(request.url) == URL + "/v1/score"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "model": "eval",
        "items": [
            {"prompt": "p", "completion": "a"},
            {
                "prompt": "p",
                "completion": "b",
                "reference": "r",
                "metadata": {"n": 1},
                "messages": [{"role": "user", "content": "p"}],
            },
        ],
    }


async def test_many_items_go_in_several_requests_and_come_back_in_order() -> None:
    service = Service()
    scored = await client(service, max_items=64, concurrency=8).score(items(200))
    assert sorted(service.sizes) == [8, 64, 64, 64]
    assert [score.class_id for score in scored.scores] == list(range(200))


async def test_a_batch_stays_below_the_bytes_of_a_body() -> None:
    service = Service()
    texts = [ScoreItem("x" * 300, str(at)) for at in range(9)]
    scored = await client(service, max_body_kib=1).score(texts)
    assert service.sizes == [3, 3, 3]
    assert all(len(request.content) <= 1024 + 20 for request in service.requests)
    assert [score.class_id for score in scored.scores] == list(range(9))


async def test_no_more_requests_are_in_flight_than_allowed() -> None:
    running = most = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return numbered(request)

    await client(handler, max_items=1, concurrency=3).score(items(10))  # type: ignore[arg-type]
    assert most == 3


async def test_an_item_that_cannot_be_sent_leaves_the_others_alone() -> None:
    service = Service()
    bad = [ScoreItem("p", "a" * (MAX_TEXT_CHARS + 1)), ScoreItem("p", "1"), ScoreItem("p" * 2000, "2")]
    bad += [ScoreItem("p", "3", metadata={"x": object()}), ScoreItem("p", "\ud800")]
    scored = await client(service, max_body_kib=1).score(bad)
    assert [score.class_id for score in scored.scores] == [-1, 1, -1, -1, -1]
    errors = [str(score.error) for score in scored.scores]
    assert "completion: " in errors[0] and f"{MAX_TEXT_CHARS} characters" in errors[0]
    assert "client.max_body_kib=1" in errors[2]
    assert all("item" in error for error in errors[3:])
    assert service.sizes == [1]


async def test_transient_failure_is_retried_after_jittered_pauses() -> None:
    clock = Clock()
    service = Service(
        httpx.ConnectError("refused"),
        httpx.Response(502),
        httpx.Response(503, headers={"Retry-After": "3"}),
        httpx.Response(429, headers={"Retry-After": "Thu, 01 Jan 1970 00:17:00 GMT"}),
        clock=clock,
    )
    scored = await client(service, clock).score(items(2))
    assert [score.class_id for score in scored.scores] == [0, 1]
    # Half of 1, 2, 4, 8; 3 s asked for; the date is second 1020, and it is then second 1000 + 0.5 + 1 + 5.
    assert clock.waits == [0.5, 1.0, 3.0 + 2.0, (1020 - 1006.5) + 4.0]
    assert scored.failures == ()


async def test_after_the_last_try_the_batch_is_unscored_with_the_reason() -> None:
    service = Service(*[httpx.Response(503, text="drained")] * 9)
    scored = await client(service, max_attempts=3, breaker_failures=0).score(items(2))
    assert len(service.requests) == 3
    (failure,) = scored.failures
    assert (failure.kind, failure.status, failure.tries) == ("overloaded", 503, 3)
    assert [score.score for score in scored.scores] == [None, None]
    assert re.search(rf"{URL} .*\b503: drained .*\b3 tries", str(scored.scores[0].error))


async def test_the_deadline_covers_all_tries_and_batches() -> None:
    clock = Clock()
    service = Service(*[httpx.ReadTimeout("slow")] * 9, clock=clock, takes_s=6.0)
    scored = await client(
        service, clock, deadline_s=20.0, max_items=1, breaker_failures=0, max_attempts=9
    ).score(items(3))
    # 6 + 0.5 + 6 + 1 + 6 = 19.5: another pause does not fit. The second item has one try, the third none.
    assert len(service.requests) == 4 and clock.now == 19.5 + 6.0
    kinds = [failure.kind for failure in scored.failures]
    assert kinds == ["timeout"] * 3
    assert re.search(r"\b3 tries.*\b0\.5 s of deadline_s=20\b", scored.failures[0].message)
    assert "deadline_s=20" in scored.failures[2].message
    assert all(score.score is None for score in scored.scores)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "refused"), (404, "refused"), (307, "refused"), (500, "failed"), (501, "failed")],
)
async def test_permanent_failure_is_not_retried(status: int, kind: str) -> None:
    service = Service(httpx.Response(status, json="no"))
    scored = await client(service, token="secret").score(items(2))
    assert len(service.requests) == 1
    assert [(failure.kind, failure.status) for failure in scored.failures] == [(kind, status)]
    message = str(scored.scores[1].error)
    assert f'status {status}: "no"' in message and "secret" not in message
    assert ("token" in message) == (status == 401)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_batch_that_is_refused_is_halved_until_the_item_at_fault_is_alone(status: int) -> None:
    service = Service()

    def picky(request: httpx.Request) -> httpx.Response:
        answer = service(request)
        bad = any(item["completion"] == "5" for item in json.loads(request.content)["items"])
        return httpx.Response(status, text="bad item") if bad else answer

    scored = await client(picky).score(items(8))
    assert [score.class_id for score in scored.scores] == [0, 1, 2, 3, 4, -1, 6, 7]
    assert service.sizes == [8, 4, 4, 2, 1, 1, 2]
    assert [failure.status for failure in scored.failures] == [status]


async def test_the_breaker_opens_answers_at_once_and_probes() -> None:
    clock = Clock()
    service = Service(*[httpx.ConnectError("refused")] * 3, clock=clock)
    caller = client(service, clock, max_attempts=1, breaker_failures=3, breaker_open_s=5.0)
    for _ in range(3):
        assert (await caller.score(items(1))).failures[0].kind == "unreachable"
    refused = await caller.score(items(1))
    assert len(service.requests) == 3
    assert refused.failures[0].kind == "circuit_open" and refused.failures[0].tries == 0
    assert re.search(r"\b3 failures in a row.*\b5 s\b", str(refused.scores[0].error))
    clock.now += 5.0
    assert (await caller.score(items(1))).failures == ()
    assert (await caller.score(items(1))).failures == ()


async def test_a_service_that_is_only_busy_keeps_the_circuit_closed() -> None:
    service = Service(*[httpx.Response(429)] * 4)
    caller = client(service, max_attempts=1, breaker_failures=2)
    for _ in range(4):
        assert (await caller.score(items(1))).failures[0].kind == "overloaded"
    assert (await caller.score(items(1))).failures == ()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "JSON"),
        ({}, "list of scores"),
        (GOOD | {"scores": GOOD["scores"][:1]}, r"\b1 scores for 2\b"),
    ],
)
async def test_garbage_unscores_its_batch_and_names_the_answer(answer: object, message: str) -> None:
    service = Service(httpx.Response(200, json=answer))
    scored = await client(service).score(ITEMS)
    assert [failure.kind for failure in scored.failures] == ["garbage"] and len(service.requests) == 1
    assert all(score.score is None and re.search(message, str(score.error)) for score in scored.scores)
    assert URL in str(scored.scores[0].error)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"score": 1.5, "class": 0}, r"\bscore: .*\b1\b"),
        ({"score": "high", "class": 0}, r"\bscore: .*number"),
        ({"score": 1}, "class: "),
        (None, "dictionary"),
    ],
)
async def test_garbage_for_one_item_leaves_the_others_alone(entry: object, message: str) -> None:
    service = Service(httpx.Response(200, json=GOOD | {"scores": [entry, GOOD["scores"][0]]}))
    bad, good = (await client(service).score(ITEMS)).scores
    assert bad.score is None and re.search(message, str(bad.error))
    assert good.score == 0.5


async def test_not_a_number_in_json_is_garbage() -> None:
    body = json.dumps(GOOD).replace("0.5", "NaN")
    scored = await client(Service(httpx.Response(200, text=body))).score(ITEMS)
    assert scored.scores[0].score is None and "finite" in str(scored.scores[0].error)


async def test_a_page_that_is_not_json_is_quoted() -> None:
    scored = await client(Service(httpx.Response(200, text="<html>"))).score(ITEMS)
    assert "<html>" in str(scored.scores[0].error)


async def test_no_service_names_the_address_and_how_to_start_one() -> None:
    service = Service(*[httpx.ConnectError("refused")] * 9)
    scored = await client(service, max_attempts=2).score(ITEMS)
    message = str(scored.scores[0].error)
    assert URL in message and "(ConnectError: refused)" in message and "polyray serve" in message


async def test_distances_and_identity() -> None:
    matrix = [[0.0, 0.25], [0.25, 0.0]]
    service = Service(httpx.Response(200, json=GOOD | {"distances": {"default": matrix}}))
    assert await client(service).distances(ITEMS) == matrix
    assert json.loads(service.requests[0].content)["distances"] is True
    info = Service(httpx.Response(200, json={"reward_model": "verifier/x", "version": "7"}))
    assert (await client(info).info())["reward_model"] == "verifier/x"
    assert info.requests[0].method == "GET" and str(info.requests[0].url) == URL + "/v1/info"


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (None, "distances"),
        ({"default": [[0.0]]}, "2 x 2"),
        ({"default": [[0.0, 0.1], [0.2, 0.0]]}, "symmetric"),
    ],
)
async def test_garbage_distances(distances: object, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        await client(Service(httpx.Response(200, json=GOOD | {"distances": distances}))).distances(ITEMS)


async def test_an_identity_that_is_none_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"\{\}.*address"):
        await client(Service(httpx.Response(200, json={}))).info()
    with pytest.raises(RewardError, match=r"\b404\b"):
        await client(Service(httpx.Response(404))).info()


def test_the_same_for_threads() -> None:
    service = Service(httpx.ConnectError("refused"))
    spec = ClientSpec(backoff_s=0.001)
    with RewardServiceClient(URL, spec, transport=httpx.MockTransport(service)) as blocking:
        scored = blocking.score(items(3))
        assert [score.class_id for score in scored.scores] == [0, 1, 2]
        assert blocking.wait_s == 0.0
    blocking.close()
    assert len(service.requests) == 2
