"""The client's decisions, by hand: pauses, deadlines, the circuit breaker, batches, Retry-After."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyray.config.remote_reward import ClientSpec
from polyray.rewards.client_policy import (
    CircuitBreaker,
    Failure,
    Retry,
    after_failure,
    is_alive,
    retry_after_s,
    split_batches,
)

SPEC = ClientSpec(max_attempts=4, backoff_s=1.0, max_backoff_s=5.0, deadline_s=100.0)
BROKEN = Failure("unreachable", "no connection")


def longest(low: float, high: float) -> float:
    assert low == 0.0
    return high


def step(failure: Failure, tries: int, now: float = 0.0, deadline: float = 100.0) -> Retry | Failure:
    return after_failure(failure, tries=tries, now=now, deadline=deadline, spec=SPEC, uniform=longest)


def test_pauses_double_up_to_their_limit() -> None:
    spec = SPEC.model_copy(update={"max_attempts": 9})
    waits = [
        after_failure(BROKEN, tries=tries, now=0, deadline=100, spec=spec, uniform=longest)
        for tries in range(1, 6)
    ]
    assert waits == [Retry(1.0), Retry(2.0), Retry(4.0), Retry(5.0), Retry(5.0)]


def test_the_pause_is_drawn_from_zero_to_its_limit() -> None:
    drawn = after_failure(
        BROKEN, tries=2, now=0, deadline=100, spec=SPEC, uniform=lambda low, high: low + 0.25 * (high - low)
    )
    assert drawn == Retry(0.5)


def test_retry_after_of_the_service_precedes_the_jitter() -> None:
    assert step(Failure("overloaded", "busy", 429, retry_after_s=7.0), tries=2) == Retry(9.0)
    assert step(Failure("overloaded", "busy", 503, retry_after_s=0.0), tries=1) == Retry(1.0)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_statuses_that_may_pass(status: int) -> None:
    assert isinstance(step(Failure("failed", "why", status), tries=1), Retry)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 422, 500, 501])
def test_statuses_that_come_again(status: int) -> None:
    failure = step(Failure("refused", "why", status), tries=1)
    assert failure == Failure("refused", "why", status, None, 1)


def test_garbage_and_an_open_circuit_are_not_tried_again() -> None:
    for kind in ("garbage", "circuit_open"):
        assert isinstance(step(Failure(kind, "why"), tries=1), Failure)


def test_the_last_try_says_how_many_there_were() -> None:
    last = step(BROKEN, tries=4)
    assert isinstance(last, Failure) and "4 tries" in last.message
    assert replace(last, message="") == Failure("unreachable", "", None, None, 4)


def test_a_pause_that_ends_behind_the_deadline_is_not_begun() -> None:
    assert step(BROKEN, tries=1, now=98.9) == Retry(1.0)
    late = step(BROKEN, tries=1, now=99.0)
    assert isinstance(late, Failure) and "1 s of deadline_s=100" in late.message
    assert replace(late, message="") == Failure("unreachable", "", None, None, 1)
    asked = Failure("overloaded", "busy", 429, retry_after_s=60.0)
    assert isinstance(step(asked, tries=1, now=0, deadline=60), Failure)


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker(3, 10.0)
    for _ in range(2):
        breaker.failed(BROKEN, 0.0, 0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(BROKEN, 0.0, 0.0)
    assert breaker.refuses(0.0) is None
    breaker.failed(BROKEN, 5.0, 5.0)
    refusal = breaker.refuses(6.0)
    assert refusal is not None
    assert "3 failures" in refusal.message and "9 s" in refusal.message
    assert replace(refusal, message="") == Failure("circuit_open", "", tries=0)
    assert breaker.wait_s(6.0) == 9.0


def test_requests_that_fail_together_count_once() -> None:
    breaker = CircuitBreaker(3, 10.0)
    for _ in range(50):
        breaker.failed(BROKEN, 2.0, sent_at=1.0)
    breaker.failed(BROKEN, 2.5, sent_at=1.9)
    assert breaker.refuses(3.0) is None
    breaker.failed(BROKEN, 4.0, sent_at=3.0)
    assert breaker.refuses(5.0) is None
    breaker.failed(BROKEN, 6.0, sent_at=5.0)
    assert breaker.refuses(7.0) is not None


def test_one_probe_decides_about_the_open_breaker() -> None:
    breaker = CircuitBreaker(1, 10.0)
    breaker.failed(BROKEN, 0.0, 0.0)
    assert breaker.refuses(9.99) is not None
    assert breaker.refuses(10.0) is None  # the probe
    other = breaker.refuses(10.0)
    assert other is not None and "another request" in other.message
    breaker.failed(BROKEN, 12.0, 12.0)
    assert breaker.refuses(21.9) is not None
    assert breaker.refuses(22.0) is None
    breaker.succeeded()
    assert breaker.refuses(22.0) is None and breaker.refuses(22.0) is None


def test_an_abandoned_probe_leaves_room_for_the_next() -> None:
    breaker = CircuitBreaker(1, 10.0)
    breaker.failed(BROKEN, 0.0, 0.0)
    assert breaker.refuses(10.0) is None
    breaker.abandoned()
    assert breaker.refuses(10.0) is None


def test_a_breaker_of_zero_never_opens() -> None:
    breaker = CircuitBreaker(0, 10.0)
    for _ in range(100):
        breaker.failed(BROKEN, 0.0, 0.0)
    assert breaker.refuses(0.0) is None and breaker.wait_s(0.0) == 0.0


def test_service_with_client_error_is_alive() -> None:
    assert is_alive(Failure("overloaded", "", 429)) and is_alive(Failure("refused", "", 404))
    assert not is_alive(Failure("overloaded", "", 503)) and not is_alive(BROKEN)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-2", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, wall_now=40.0) == seconds


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 5), st.integers(1, 60))
def test_batches_are_runs_within_both_limits_and_greedy(
    sizes: list[int], max_items: int, max_bytes: int
) -> None:
    runs = split_batches(sizes, max_items, max_bytes)
    assert [at for run in runs for at in run] == list(range(len(sizes)))
    for run in runs:
        assert len(run) <= max_items
        assert len(run) == 1 or sum(sizes[at] for at in run) <= max_bytes
    for run, after in itertools.pairwise(runs):
        fuller = [*run, after[0]]
        assert len(fuller) > max_items or sum(sizes[at] for at in fuller) > max_bytes
