"""Retry policy for calls of a remote reward: pure decisions without clock, network or own randomness.

    Failure          why a request has no answer
    after_failure    Retry in so many seconds, or the failure for good
    CircuitBreaker   closed -> open after failures in a row -> one probe -> closed, or open again
    split_batches    which items share a request

The pauses themselves are polyray/retry.py. Times are seconds of the caller's clock. Called by client.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from polyray.config.remote_reward import ClientSpec
from polyray.retry import Uniform, pause_s

Kind = Literal["unreachable", "timeout", "overloaded", "refused", "failed", "garbage", "circuit_open"]
"""Kinds of failures. refused: a 3xx or 4xx, the same on a retry. failed: a 5xx. garbage: an invalid answer."""

AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses that may pass. 500 is a defect of the service itself, the same on a retry."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a request has no answer.

    Example:
        Failure("overloaded", "status 429: too many requests", status=429, retry_after_s=2.0, tries=3)
    """

    kind: Kind
    message: str
    status: int | None = None
    """HTTP status, if there was an answer."""
    retry_after_s: float | None = None
    """Pause that the service asked for, in seconds."""
    tries: int = 1

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        if self.kind in ("unreachable", "timeout"):
            return True
        return self.status in AGAIN


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `wait_s`.

    Example:
        Retry(wait_s=0.31)
    """

    wait_s: float


def after_failure(
    failure: Failure, *, tries: int, now: float, deadline: float, spec: ClientSpec, uniform: Uniform
) -> Retry | Failure:
    """Decide between a retry and the final failure after try number `tries`.

    A pause that would end after the deadline is not begun.
    """
    if not failure.may_pass:
        return _final(failure, tries, "")
    if tries >= spec.max_attempts:
        return _final(failure, tries, f" in {tries} tries")
    wait_s = pause_s(tries, failure.retry_after_s, uniform)
    if now + wait_s >= deadline:
        left = max(0.0, deadline - now)
        return _final(
            failure, tries, f" in {tries} tries, and {left:.3g} s of deadline_s={spec.deadline_s:g} are left"
        )
    return Retry(wait_s)


def _final(failure: Failure, tries: int, what: str) -> Failure:
    return Failure(failure.kind, failure.message + what, failure.status, failure.retry_after_s, tries)


class CircuitBreaker:
    """Keeps callers from waiting for a service that is down; one per service, for all its callers.

    An answer of any status below 500 counts as success, so does 429: the service is there. Requests that were in
    flight together and fail together count once: a replica that dies takes all of its own with it.
    """

    def __init__(self, failures_to_open: int, open_s: float) -> None:
        """`failures_to_open` 0: never opens."""
        self._failures_to_open = failures_to_open
        self._open_s = open_s
        self._failures = 0
        self._counted_at = -math.inf
        self._opened_at: float | None = None
        self._probing = False
        self._last = ""

    def refuses(self, now: float) -> Failure | None:
        """Failure if nothing may be sent now; None admits a request, which must end in `succeeded`, `failed` or
        `abandoned`.

        After `open_s` one request is admitted as a probe.
        """
        if self._opened_at is None:
            return None
        wait_s = self.wait_s(now)
        if wait_s > 0 or self._probing:
            when = f"tried again in {wait_s:.3g} s" if wait_s > 0 else "being tried by another request"
            return Failure(
                "circuit_open", f"{self._failures} failures in a row, {when}; the last: {self._last}", tries=0
            )
        self._probing = True
        return None

    def wait_s(self, now: float) -> float:
        """Seconds until a request may be sent; 0 if it may be now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._open_s - now)

    def succeeded(self) -> None:
        """An answer came."""
        self._failures, self._opened_at, self._probing = 0, None, False

    def failed(self, failure: Failure, now: float, sent_at: float) -> None:
        """No answer came, or a 5xx, for a request that was sent at `sent_at`."""
        if sent_at >= self._counted_at:
            self._failures, self._counted_at = self._failures + 1, now
        self._last = failure.message
        self._probing = False
        was_open = self._opened_at is not None
        if was_open or 0 < self._failures_to_open <= self._failures:
            self._opened_at = now

    def abandoned(self) -> None:
        """The caller went away before an answer: nothing was learnt."""
        self._probing = False


def is_alive(failure: Failure) -> bool:
    """Whether the service itself answered: what the breaker does not count."""
    return failure.status is not None and failure.status < 500


def split_batches(num_bytes: Sequence[int], max_items: int, max_bytes: int) -> list[range]:
    """Runs of items in order, each of at most `max_items` and `max_bytes`; greedy.

    An item that is larger alone makes a run of its own: whether that may be sent is the caller's decision.
    """
    runs: list[range] = []
    start, total = 0, 0
    for at, size in enumerate(num_bytes):
        if at > start and (at - start >= max_items or total + size > max_bytes):
            runs.append(range(start, at))
            start, total = at, 0
        total += size
    return [*runs, range(start, len(num_bytes))] if num_bytes else []
