"""The token bucket against an exact simulation, and the 429 that it leads to."""

from __future__ import annotations

import math
import random
import re
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from fastapi import FastAPI, Request

from polyray.serving.generation.rate_limit import OverLimit, RateLimiter, RateLimitMiddleware
from polyray.serving.generation.scopes import ScopeMiddleware
from polyray.serving.generation.tokens import Caller
from tests.unit.serving.generation.operation_fixtures import ADMIN, ALICE, BOOK, USER, Clock, ask, bearer

ANN, BOB = Caller("ann", "user"), Caller("bob", "user")


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
def test_rate_limiter_admits_as_an_exact_simulation(
    requests_per_minute: int, burst: int, start_s: float
) -> None:
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


@pytest.mark.parametrize("requests_per_minute", [0.01, 0.7, 7, 13, 29, 59, 61, 6000])
def test_rate_limiter_admits_after_retry_after_and_not_a_second_earlier(requests_per_minute: float) -> None:
    clock = Clock(987_654.321)
    limiter = RateLimiter(requests_per_minute, burst=3, clock=clock)
    admitted = 0
    for _ in range(200):
        over = limiter.admit(ANN)
        if over is not None:
            clock.now_s += over.retry_after_s - 1
            early = limiter.admit(ANN)
            assert early is not None and early.retry_after_s == 1
            clock.now_s += 1
            assert limiter.admit(ANN) is None, over
        admitted += 1
    elapsed_s = clock.now_s - 987_654.321
    assert admitted <= 3 + elapsed_s * requests_per_minute / 60 + 1e-6


def test_rate_limiter_callers_have_their_own_buckets_and_limits() -> None:
    slow = Caller("slow", "user", requests_per_minute=0.5)
    limiter = RateLimiter(requests_per_minute=60, burst=1, clock=Clock())
    assert [outcome(limiter.admit(caller)) for caller in (ANN, BOB, slow)] == [0, 0, 0]
    assert [outcome(limiter.admit(caller)) for caller in (ANN, BOB, slow)] == [1, 1, 120]
    unlimited = RateLimiter(requests_per_minute=None, burst=1, clock=Clock())
    assert [unlimited.admit(ANN) for _ in range(100)] == [None] * 100
    assert [unlimited.admit(slow) for _ in range(2)] == [None, OverLimit(0.5, 1, retry_after_s=120)]


def test_rate_limiter_of_a_replica_admits_its_share() -> None:
    for num_replicas, burst, share in ((1, 20, 20), (2, 20, 10), (3, 20, 7), (8, 4, 1)):
        limiter = RateLimiter(60, burst=burst, num_replicas=num_replicas, clock=Clock())
        at_once = [limiter.admit(ANN) for _ in range(share + 1)]
        assert at_once == [None] * share + [OverLimit(60, burst, retry_after_s=num_replicas)]


def test_rate_limiter_forgets_the_caller_away_longest() -> None:
    limiter = RateLimiter(requests_per_minute=1, burst=1, max_callers=3, clock=Clock())
    people = [Caller(f"caller-{number}", "user") for number in range(5)]
    admitted = [outcome(limiter.admit(people[number])) for number in (0, 1, 2, 0, 3, 4, 0, 3, 4, 1)]
    assert admitted == [0, 0, 0, 60, 0, 0, 60, 60, 60, 0]  # caller-1 begins with a full bucket again


def limited(limiter: RateLimiter) -> FastAPI:
    app = FastAPI()

    async def name_of_caller(request: Request) -> str:
        return request.state.caller.name if hasattr(request.state, "caller") else "none"

    for path in ("/", "/healthz", "/v1/models"):
        app.get(path)(name_of_caller)
    exempt = frozenset({"/", "/healthz"})
    app.add_middleware(RateLimitMiddleware, limiter=limiter, exempt_routes=exempt)
    app.add_middleware(ScopeMiddleware, book=BOOK, needs_admin=lambda *_: False, exempt_routes=exempt)
    return app


async def test_caller_over_the_limit_gets_429_with_retry_after() -> None:
    clock = Clock()
    app = limited(RateLimiter(requests_per_minute=12, burst=2, clock=clock))

    async def models(token: str) -> Any:
        return await ask(app, "GET", "/v1/models", headers=bearer(token))

    assert [(await models(USER)).status_code for _ in range(2)] == [200, 200]
    clock.now_s = 0.5
    answer = await models(USER)
    assert answer.status_code == 429 and answer.headers["retry-after"] == "5"
    error = answer.json()["error"]
    assert re.search(r"'default' .*\b12 .*\b2 .*\b5 s", error.pop("message"))
    assert error == {"type": "invalid_request_error", "param": None, "code": "rate_limit_exceeded"}
    assert (await models(ADMIN)).json() == "admin"
    own = [await models(ALICE) for _ in range(3)]
    assert [answer.status_code for answer in own] == [200, 200, 429]
    assert own[2].headers["retry-after"] == "2"
    assert [(await models("wrong")).status_code for _ in range(3)] == [401, 401, 401]
    for path in ("/", "/healthz"):
        exempt = [await ask(app, "GET", path, headers=bearer(USER)) for _ in range(3)]
        assert [answer.status_code for answer in exempt] == [200, 200, 200]
    clock.now_s = 5.0
    assert (await models(USER)).status_code == 200
