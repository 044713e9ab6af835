"""The reward client under a fake clock: requests, retries, and the reading of every answer."""

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
UNREACHABLE = httpx.ConnectError("refused")


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
    """Answers with one step after the other, then with a class per item that is its completion's number."""

    def __init__(
        self, *steps: httpx.Response | Exception, clock: Clock | None = None, takes_s: float = 0.0
    ) -> None:
        self.steps = list(steps)
        self.clock, self.takes_s = clock or Clock(), takes_s
        self.requests: list[httpx.Request] = []

    @property
    def sizes(self) -> list[int]:
        return [len(json.loads(request.content)["items"]) for request in self.requests]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.clock.now += self.takes_s
        if not self.steps:
            return numbered(request)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def numbered(request: httpx.Request) -> httpx.Response:
    scores = [{"score": 0, "class": int(item["completion"])} for item in json.loads(request.content)["items"]]
    return httpx.Response(200, json={"reward_model": "m", "version": "1", "scores": scores})


def client(
    handler: Callable[[httpx.Request], Any], clock: Clock | None = None, **changes: Any
) -> AsyncRewardServiceClient:
    clock = clock or Clock()
    options = {key: changes.pop(key) for key in ("token", "wire") if key in changes}
    return AsyncRewardServiceClient(
        URL + "/",
        ClientSpec(**{"concurrency": 1} | changes),
        transport=httpx.MockTransport(handler),
        clock=clock,
        wall_clock=lambda: 1_000.0 + clock.now,
        sleep=clock.sleep,
        uniform=lambda low, high: (low + high) / 2,
        **options,
    )


def items(number: int) -> list[ScoreItem]:
    return [ScoreItem("p", str(at)) for at in range(number)]


async def test_client_sends_every_field_and_reads_every_score() -> None:
    service = Service(httpx.Response(200, json=GOOD))
    scored = await client(service, token="secret", wire=PolyrayWire("eval")).score(ITEMS)
    assert scored.scores == (Score(0.5, 3, {"x": 2.0}), Score(None, -1, {}, "why"))
    assert scored.failures == ()
    (request,) = service.requests
    assert str(request.url) == URL + "/v1/score"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/json"
    second = {"prompt": "p", "completion": "b", "reference": "r", "metadata": {"n": 1}}
    second["messages"] = [{"role": "user", "content": "p"}]
    assert json.loads(request.content) == {
        "model": "eval",
        "items": [{"prompt": "p", "completion": "a"}, second],
    }


async def test_client_batches_keep_to_items_bytes_and_order() -> None:
    service = Service()
    scored = await client(service, max_items=64, concurrency=8).score(items(200))
    assert sorted(service.sizes) == [8, 64, 64, 64]
    assert [score.class_id for score in scored.scores] == list(range(200))
    small = Service()
    scored = await client(small, max_body_kib=1).score([ScoreItem("x" * 300, str(at)) for at in range(9)])
    assert small.sizes == [3, 3, 3] and all(len(each.content) <= 1024 + 20 for each in small.requests)
    assert [score.class_id for score in scored.scores] == list(range(9))


async def test_client_requests_in_flight_keep_to_concurrency() -> None:
    running = most = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return numbered(request)

    await client(handler, max_items=1, concurrency=3).score(items(10))
    assert most == 3


async def test_client_item_that_cannot_be_sent_leaves_the_others_alone() -> None:
    service = Service()
    bad = [ScoreItem("p", "a" * (MAX_TEXT_CHARS + 1)), ScoreItem("p", "1"), ScoreItem("p" * 2000, "2")]
    bad += [ScoreItem("p", "3", metadata={"x": object()}), ScoreItem("p", "\ud800")]
    scored = await client(service, max_body_kib=1).score(bad)
    assert [score.class_id for score in scored.scores] == [-1, 1, -1, -1, -1]
    errors = [str(score.error) for score in scored.scores]
    assert "completion: " in errors[0] and f"{MAX_TEXT_CHARS} characters" in errors[0]
    assert "client.max_body_kib=1" in errors[2] and service.sizes == [1]


async def test_client_transient_failures_are_retried_after_jittered_pauses() -> None:
    clock = Clock()
    service = Service(
        UNREACHABLE,
        httpx.Response(502),
        httpx.Response(503, headers={"Retry-After": "3"}),
        httpx.Response(429, headers={"Retry-After": "Thu, 01 Jan 1970 00:17:00 GMT"}),
        clock=clock,
    )
    scored = await client(service, clock).score(items(2))
    assert [score.class_id for score in scored.scores] == [0, 1] and scored.failures == ()
    # Half of 0.25, 0.5, 1, 2; 3 s asked for; the date is second 1020.
    assert clock.waits == [0.125, 0.25, 3.0 + 0.5, (1020 - 1003.875) + 1.0]


async def test_client_batch_without_an_answer_is_unscored_with_the_reason() -> None:
    service = Service(*[httpx.Response(503, text="drained")] * 9)
    scored = await client(service, max_attempts=3, breaker_failures=0).score(items(2))
    assert len(service.requests) == 3
    (failure,) = scored.failures
    assert (failure.kind, failure.status, failure.tries) == ("overloaded", 503, 3)
    assert [score.score for score in scored.scores] == [None, None]
    assert re.search(rf"{URL} .*\b503: drained .*\b3 tries", str(scored.scores[0].error))


async def test_client_deadline_covers_all_tries_and_batches() -> None:
    clock = Clock()
    service = Service(*[httpx.ReadTimeout("slow")] * 9, clock=clock, takes_s=6.0)
    options = {"deadline_s": 18.5, "max_items": 1, "breaker_failures": 0, "max_attempts": 9}
    scored = await client(service, clock, **options).score(items(3))
    # 6 + 0.125 + 6 + 0.25 + 6 = 18.375: no other pause fits. The second item has one try, the third none.
    assert len(service.requests) == 4 and clock.now == 18.375 + 6.0
    assert [failure.kind for failure in scored.failures] == ["timeout"] * 3
    assert re.search(r"\b3 tries.*\b0\.125 s of deadline_s=18\.5\b", scored.failures[0].message)
    assert "deadline_s=18.5" in scored.failures[2].message
    assert all(score.score is None for score in scored.scores)


@pytest.mark.parametrize(
    ("answer", "tries", "kind"),
    [
        (httpx.Response(401, json="no"), 1, "refused"),
        (httpx.Response(404, json="no"), 1, "refused"),
        (httpx.Response(307, json="no"), 1, "refused"),
        (httpx.Response(500, json="no"), 1, "failed"),  # the service's own defect
        (httpx.Response(500, text="no"), 2, None),  # of Serve's proxy: the replica died with the request
    ],
)
async def test_client_permanent_failure_is_not_retried(
    answer: httpx.Response, tries: int, kind: str | None
) -> None:
    service = Service(answer)
    scored = await client(service, token="secret").score(items(2))
    assert len(service.requests) == tries
    assert [failure.kind for failure in scored.failures] == ([kind] if kind else [])
    if kind:
        message = str(scored.scores[1].error)
        assert f'status {answer.status_code}: "no"' in message and "secret" not in message
        assert ("token" in message) == (answer.status_code == 401)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_client_refused_batch_is_halved_down_to_the_item_at_fault(status: int) -> None:
    service = Service()

    def picky(request: httpx.Request) -> httpx.Response:
        answer = service(request)
        bad = any(item["completion"] == "5" for item in json.loads(request.content)["items"])
        return httpx.Response(status, text="bad item") if bad else answer

    scored = await client(picky).score(items(8))
    assert [score.class_id for score in scored.scores] == [0, 1, 2, 3, 4, -1, 6, 7]
    assert service.sizes == [8, 4, 4, 2, 1, 1, 2]
    assert [failure.status for failure in scored.failures] == [status]


async def test_client_breaker_answers_at_once_and_a_busy_service_keeps_it_closed() -> None:
    clock = Clock()
    service = Service(*[httpx.Response(429)] * 4, *[UNREACHABLE] * 3, clock=clock)
    caller = client(service, clock, max_attempts=1, breaker_failures=3, breaker_open_s=5.0)
    kinds = [(await caller.score(items(1))).failures[0].kind for _ in range(8)]
    assert kinds == ["overloaded"] * 4 + ["unreachable"] * 3 + ["circuit_open"]
    assert len(service.requests) == 7
    refused = await caller.score(items(1))
    assert re.search(r"\b3 failures in a row.*\b5 s\b", str(refused.scores[0].error))
    clock.now += 5.0
    assert (await caller.score(items(1))).failures == () == (await caller.score(items(1))).failures


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"[]", "JSON"),
        (b"<html>", "<html>"),
        (b"{}", "list of scores"),
        (json.dumps(GOOD | {"scores": GOOD["scores"][:1]}).encode(), r"\b1 scores for 2\b"),
    ],
)
async def test_client_garbage_unscores_its_batch_and_names_the_answer(answer: bytes, message: str) -> None:
    service = Service(httpx.Response(200, content=answer))
    scored = await client(service).score(ITEMS)
    assert [failure.kind for failure in scored.failures] == ["garbage"] and len(service.requests) == 1
    assert all(score.score is None and re.search(message, str(score.error)) for score in scored.scores)
    assert URL in str(scored.scores[0].error)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{"score": 0.5, "class": 9223372036854775808}', "class"),
        ('{"score": 1.5, "class": 0}', r"\bscore: .*\b1\b"),
        ('{"score": "high", "class": 0}', r"\bscore: .*number"),
        ('{"score": NaN, "class": 0}', "finite"),
        ('{"score": 1}', "class: "),
        ("null", "dictionary"),
    ],
)
async def test_client_garbage_for_one_item_leaves_the_others_alone(entry: str, message: str) -> None:
    body = json.dumps(GOOD | {"scores": ["ENTRY", GOOD["scores"][0]]}).replace('"ENTRY"', entry)
    bad, good = (await client(Service(httpx.Response(200, text=body))).score(ITEMS)).scores
    assert bad.score is None and re.search(message, str(bad.error))
    assert good.score == 0.5


async def test_client_unreachable_service_names_address_and_command() -> None:
    scored = await client(Service(*[UNREACHABLE] * 9), max_attempts=2).score(ITEMS)
    message = str(scored.scores[0].error)
    assert URL in message and "(ConnectError: refused)" in message and "polyray serve" in message


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.0, 0.25], [0.25, 0.0]], None),
        (None, "distances"),
        ([[0.0]], "2 x 2"),
        ([[0.0, 0.1], [0.2, 0.0]], "symmetric"),
    ],
)
async def test_client_distances_are_checked(matrix: Any, message: str | None) -> None:
    service = Service(httpx.Response(200, json=GOOD | {"distances": {"default": matrix}}))
    if message is None:
        assert await client(service).distances(ITEMS) == matrix
        assert json.loads(service.requests[0].content)["distances"] is True
    else:
        with pytest.raises(RewardError, match=message):
            await client(service).distances(ITEMS)


async def test_client_info_is_the_identity_of_the_service_or_an_error() -> None:
    service = Service(httpx.Response(200, json={"reward_model": "verifier/x", "version": "7"}))
    assert (await client(service).info())["reward_model"] == "verifier/x"
    assert service.requests[0].method == "GET" and str(service.requests[0].url) == URL + "/v1/info"
    for answer, message in (
        (httpx.Response(200, json={}), r"\{\}.*address"),
        (httpx.Response(404), r"\b404\b"),
    ):
        with pytest.raises(RewardError, match=message):
            await client(Service(answer)).info()


def test_client_for_threads_retries_and_closes_twice() -> None:
    service = Service(UNREACHABLE)
    with RewardServiceClient(URL, transport=httpx.MockTransport(service)) as blocking:
        assert [score.class_id for score in blocking.score(items(3)).scores] == [0, 1, 2]
        assert blocking.wait_s == 0.0
    blocking.close()
    assert len(service.requests) == 2
