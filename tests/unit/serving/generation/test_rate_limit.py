"""The token bucket against an exact simulation, and the 429 that it leads to."""

from __future__ import annotations

import math
import random
import re
from fractions import Fraction
from itertools import accumulate

import pytest
from fastapi import FastAPI, Request
from starlette.types import ASGIApp

from polyray.serving.generation.rate_limit import OverLimit, RateLimiter, RateLimitMiddleware
from polyray.serving.generation.scopes import ScopeMiddleware
from polyray.serving.generation.tokens import Caller
from tests.unit.serving.generation.operation_fixtures import ADMIN, ALICE, BOOK, USER, ask, bearer

ANN, BOB = Caller("ann", "user"), Caller("bob", "user")


class Clock:
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def simulated(times_s: list[Fraction], requests_per_minute: Fraction, burst: int) -> list[int]:
    """Per request 0 where it is admitted, else the whole seconds until one would be; in exact numbers."""
    outcomes = []
    left, before = Fraction(burst), Fraction(0)
    for now in times_s:
        left = min(Fraction(burst), left + (now - before) * requests_per_minute / 60)
        before = now
        if left >= 1:
            left -= 1
            outcomes.append(0)
        else:
            outcomes.append(max(1, math.ceil((1 - left) * 60 / requests_per_minute)))
    return outcomes


def outcome(over: OverLimit | None) -> int:
    return 0 if over is None else over.retry_after_s


@pytest.mark.parametrize("start_s", [0.0, 12_345_678.0])
@pytest.mark.parametrize(
    ("requests_per_minute", "burst"), [(60, 1), (60, 5), (7, 3), (30, 20), (1, 2), (600, 4)]
)
def test_requests_are_admitted_as_an_exact_simulation_says(requests_per_minute, burst, start_s):
    random_numbers = random.Random(requests_per_minute * 100 + burst)
    steps = [Fraction(random_numbers.choice([0, 0, 1, 2, 4, 16, 60]), 8) for _ in range(600)]
    times_s = list(accumulate(steps))
    clock = Clock()
    limiter = RateLimiter(requests_per_minute, burst, clock=clock)
    outcomes = []
    for time_s in times_s:
        clock.now_s = start_s + float(time_s)
        outcomes.append(outcome(limiter.admit(ANN)))
    expected = simulated(times_s, Fraction(requests_per_minute), burst)
    assert outcomes == expected
    assert len(set(expected)) > 1


def test_a_burst_then_the_rate_by_hand():
    clock = Clock()
    limiter = RateLimiter(requests_per_minute=30, burst=2, clock=clock)  # one every 2 s
    seen = []
    for now_s in (0, 0, 0, 0.5, 1.5, 2, 2, 4, 4.5, 100, 100, 100):
        clock.now_s = now_s
        seen.append(outcome(limiter.admit(ANN)))
    assert seen == [0, 0, 2, 2, 1, 0, 2, 0, 2, 0, 0, 2]


@pytest.mark.parametrize("requests_per_minute", [0.01, 0.7, 1, 3, 7, 11, 13, 17, 29, 59, 60, 61, 100, 6000])
def test_caller_is_admitted_after_retry_after_and_not_a_second_earlier(requests_per_minute: float):
    clock = Clock(987_654.321)
    limiter = RateLimiter(requests_per_minute, burst=3, clock=clock)
    admitted = 0
    for _ in range(200):
        over = limiter.admit(ANN)
        if over is None:
            admitted += 1
            continue
        clock.now_s += over.retry_after_s - 1
        early = limiter.admit(ANN)
        assert early is not None and early.retry_after_s == 1
        clock.now_s += 1
        assert limiter.admit(ANN) is None, over
        admitted += 1
    elapsed_s = clock.now_s - 987_654.321
    assert admitted <= 3 + elapsed_s * requests_per_minute / 60 + 1e-6


def test_callers_have_buckets_and_limits_of_their_own():
    limiter = RateLimiter(requests_per_minute=60, burst=1, clock=Clock())
    slow = Caller("slow", "user", requests_per_minute=0.5)
    assert [outcome(limiter.admit(caller)) for caller in (ANN, BOB, slow)] == [0, 0, 0]
    assert [limiter.admit(caller) for caller in (ANN, BOB, slow)] == [
        OverLimit(60, 1, retry_after_s=1),
        OverLimit(60, 1, retry_after_s=1),
        OverLimit(0.5, 1, retry_after_s=120),
    ]


def test_without_a_limit_only_callers_with_their_own_are_limited():
    limiter = RateLimiter(requests_per_minute=None, burst=1, clock=Clock())
    assert [limiter.admit(ANN) for _ in range(1000)] == [None] * 1000
    own = Caller("own", "user", requests_per_minute=6.0)
    assert [limiter.admit(own) for _ in range(2)] == [None, OverLimit(6.0, 1, retry_after_s=10)]


@pytest.mark.parametrize(
    ("num_replicas", "burst", "share"), [(1, 20, 20), (2, 20, 10), (3, 20, 7), (8, 4, 1)]
)
def test_a_replica_admits_its_share(num_replicas: int, burst: int, share: int):
    clock = Clock()
    limiter = RateLimiter(requests_per_minute=60, burst=burst, num_replicas=num_replicas, clock=clock)
    at_once = [limiter.admit(ANN) for _ in range(share + 1)]
    assert at_once == [None] * share + [OverLimit(60, burst, retry_after_s=num_replicas)]


def test_only_so_many_callers_are_remembered_and_the_last_one_is_forgotten_last():
    limiter = RateLimiter(requests_per_minute=1, burst=1, max_callers=3, clock=Clock())
    people = [Caller(f"caller-{number}", "user") for number in range(5)]
    assert [outcome(limiter.admit(caller)) for caller in people[:3]] == [0, 0, 0]
    assert outcome(limiter.admit(people[0])) == 60  # now the one that was away longest is caller-1
    assert [outcome(limiter.admit(caller)) for caller in people[3:]] == [0, 0]
    assert [outcome(limiter.admit(people[number])) for number in (0, 3, 4)] == [60, 60, 60]
    assert outcome(limiter.admit(people[1])) == 0  # forgotten: it begins with a full bucket
    assert len(limiter._buckets) == 3


def limited(limiter: RateLimiter) -> FastAPI:
    app = FastAPI()

    async def name_of_caller(request: Request) -> str:
        return request.state.caller.name if hasattr(request.state, "caller") else "nobody"

    for path in ("/", "/healthz", "/v1/models"):
        app.get(path)(name_of_caller)
    exempt = frozenset({"/", "/healthz"})
    app.add_middleware(RateLimitMiddleware, limiter=limiter, exempt_routes=exempt)
    app.add_middleware(
        ScopeMiddleware, book=BOOK, needs_admin=lambda method, path: False, exempt_routes=exempt
    )
    return app


async def test_caller_over_the_limit_gets_429_with_retry_after():
    clock = Clock()
    app = limited(RateLimiter(requests_per_minute=12, burst=2, clock=clock))
    first = [(await ask(app, "GET", "/v1/models", headers=bearer(USER))).status_code for _ in range(2)]
    assert first == [200, 200]
    clock.now_s = 0.5
    answer = await ask(app, "GET", "/v1/models", headers=bearer(USER))
    assert answer.status_code == 429 and answer.headers["retry-after"] == "5"
    error = answer.json()["error"]
    assert re.search(r"'default' .*\b12 .*\b2 .*\b5 s", error.pop("message"))
    assert error == {"type": "invalid_request_error", "param": None, "code": "rate_limit_exceeded"}
    assert (await ask(app, "GET", "/v1/models", headers=bearer(ADMIN))).json() == "admin"
    own = [await ask(app, "GET", "/v1/models", headers=bearer(ALICE)) for _ in range(3)]
    assert [answer.status_code for answer in own] == [200, 200, 429]
    assert own[2].headers["retry-after"] == "2"
    assert re.match(r"'alice' .*\b30 ", own[2].json()["error"]["message"])
    clock.now_s = 5.0
    assert (await ask(app, "GET", "/v1/models", headers=bearer(USER))).status_code == 200


async def test_exempt_routes_and_refused_tokens_use_no_rate():
    app = limited(RateLimiter(requests_per_minute=1, burst=1, clock=Clock()))
    for path in ("/", "/healthz"):
        for headers in ({}, bearer(USER)):
            answers = [await ask(app, "GET", path, headers=headers) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
    refused = [await ask(app, "GET", "/v1/models", headers=bearer("wrong")) for _ in range(3)]
    assert [answer.status_code for answer in refused] == [401, 401, 401]
    counted = [await ask(app, "GET", "/v1/models", headers=bearer(USER)) for _ in range(2)]
    assert [answer.status_code for answer in counted] == [200, 429]


async def test_a_lifespan_passes():
    seen: list[str] = []

    async def inner(scope, receive, send) -> None:
        seen.append(scope["type"])

    async def receive() -> dict:
        return {"type": "lifespan.startup"}

    async def send(message) -> None:
        return

    limiter = RateLimiter(requests_per_minute=1, burst=1, clock=Clock())
    middlewares: list[ASGIApp] = [
        RateLimitMiddleware(inner, limiter),
        ScopeMiddleware(inner, BOOK, lambda method, path: True),
    ]
    for middleware in middlewares:
        await middleware({"type": "lifespan"}, receive, send)
    assert seen == ["lifespan", "lifespan"]
