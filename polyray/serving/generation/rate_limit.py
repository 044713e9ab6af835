"""Rate limit of a caller: a token bucket per caller name, and the 429 that says when to retry.

Each replica counts for itself, so it gets its share of the limit: all replicas together never admit more.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from polyray.serving.auth import HEALTH_ROUTES, answer_instead, route_path
from polyray.serving.generation.access_log import note_rejected
from polyray.serving.generation.tokens import Caller
from polyray.serving.http_errors import error_response

MAX_CALLERS = 10_000
"""Largest number of callers with a bucket; beyond it, the caller that was away longest begins with a full one."""

_ROUNDING = 1e-6
"""Rounding tolerance in requests: a caller that waits exactly as told is admitted."""


@dataclass(frozen=True, slots=True)
class OverLimit:
    """A request that comes too early.

    Example:
        OverLimit(requests_per_minute=30.0, burst=20, retry_after_s=2)
    """

    requests_per_minute: float
    burst: int
    retry_after_s: int
    """Whole seconds, rounded up, at least 1."""


@dataclass(slots=True)
class _Bucket:
    """State of a caller's burst: requests left, and the time of that count."""

    requests: float
    at_s: float


class RateLimiter:
    """Admits `requests_per_minute` of each caller in the long run, and up to `burst` of them at once.

    A caller's own requests_per_minute goes before the common one; without either there is no limit. `clock` gives
    seconds and never goes back.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        burst: int,
        num_replicas: int = 1,
        max_callers: int = MAX_CALLERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_minute = requests_per_minute
        self._burst = burst
        self._num_replicas = num_replicas
        self._max_callers = max_callers
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, caller: Caller) -> OverLimit | None:
        """Counts one request of `caller`; None: it is admitted."""
        limit = caller.requests_per_minute
        if limit is None:
            limit = self._requests_per_minute
        if limit is None:
            return None
        rate_per_s = limit / 60 / self._num_replicas
        capacity = math.ceil(self._burst / self._num_replicas)
        bucket, now_s = self._bucket(caller.name, capacity), self._clock()
        bucket.requests = min(capacity, bucket.requests + (now_s - bucket.at_s) * rate_per_s)
        bucket.at_s = now_s
        if bucket.requests >= 1 - _ROUNDING:
            bucket.requests -= 1
            return None
        wait_s = (1 - bucket.requests) / rate_per_s
        return OverLimit(limit, self._burst, max(1, math.ceil(wait_s - _ROUNDING / 2)))

    def _bucket(self, name: str, capacity: int) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(capacity, self._clock())
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket


class RateLimitMiddleware:
    """Answer 429 to a caller with too many requests; inside ScopeMiddleware, which identifies the caller. Pure
    ASGI.
    """

    def __init__(
        self, app: ASGIApp, limiter: RateLimiter, exempt_routes: Collection[str] = HEALTH_ROUTES
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._exempt_routes = exempt_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """429 in the common error shape with Retry-After, or the application's own answer."""
        if scope["type"] == "lifespan" or route_path(scope) in self._exempt_routes:
            await self._app(scope, receive, send)
            return
        caller: Caller = scope["state"]["caller"]
        over = self._limiter.admit(caller)
        if over is None:
            await self._app(scope, receive, send)
            return
        note_rejected(scope, "rate_limit")
        response = error_response(
            429,
            f"{caller.name!r} may send {over.requests_per_minute:g} requests per minute, and {over.burst} at once; "
            f"come back in {over.retry_after_s} s",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(over.retry_after_s)},
        )
        await answer_instead(response, scope, receive, send)
