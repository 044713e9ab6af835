"""The client's decisions without a network: retries, deadlines, the circuit breaker, batches."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyray.config.remote_reward import ClientSpec
from polyray.rewards.client_policy import CircuitBreaker, Failure, Retry, after_failure, split_batches

SPEC = ClientSpec(max_attempts=4, deadline_s=100.0)
BROKEN = Failure("unreachable", "no connection")


def step(failure: Failure, tries: int = 1, now: float = 0.0) -> Retry | Failure:
    return after_failure(
        failure, tries=tries, now=now, deadline=100.0, spec=SPEC, uniform=lambda low, high: high
    )


@pytest.mark.parametrize(
    ("failure", "wait_s"),
    [
        (BROKEN, 0.25),
        (Failure("timeout", "why"), 0.25),
        (Failure("overloaded", "busy", 429, retry_after_s=7.0), 7.25),
        *((Failure("failed", "why", status), 0.25) for status in (408, 429, 502, 503, 504)),
        *((Failure("refused", "why", status), None) for status in (301, 400, 401, 404, 413, 422, 500, 501)),
        (Failure("garbage", "why"), None),
        (Failure("circuit_open", "why"), None),
    ],
)
def test_after_failure_retries_failures_that_may_pass(failure: Failure, wait_s: float | None) -> None:
    assert step(failure) == (replace(failure, tries=1) if wait_s is None else Retry(wait_s))


def test_after_failure_stops_at_the_last_try_and_before_the_deadline() -> None:
    last = step(BROKEN, tries=4)
    assert isinstance(last, Failure) and "4 tries" in last.message and last.tries == 4
    assert step(BROKEN, now=99.7) == Retry(0.25)
    late = step(BROKEN, now=99.75)
    assert isinstance(late, Failure) and "0.25 s of deadline_s=100" in late.message and late.tries == 1


def test_breaker_opens_after_failures_in_a_row_and_admits_one_probe() -> None:
    breaker = CircuitBreaker(3, 10.0)
    for now in (0.0, 0.0):
        breaker.failed(BROKEN, now, now)
    breaker.succeeded()
    for now in (0.0, 0.0, 5.0):
        assert breaker.refuses(now) is None
        breaker.failed(BROKEN, now, now)
    refusal = breaker.refuses(6.0)
    assert refusal is not None and "3 failures" in refusal.message and "9 s" in refusal.message
    assert replace(refusal, message="") == Failure("circuit_open", "", tries=0)
    assert breaker.wait_s(6.0) == 9.0
    assert breaker.refuses(14.99) is not None and breaker.refuses(15.0) is None  # the probe
    second = breaker.refuses(15.0)
    assert second is not None and "another request" in second.message
    breaker.abandoned()
    assert breaker.refuses(15.0) is None
    breaker.failed(BROKEN, 17.0, 17.0)
    assert breaker.refuses(26.9) is not None and breaker.refuses(27.0) is None
    breaker.succeeded()
    assert breaker.refuses(27.0) is None and breaker.refuses(27.0) is None


def test_breaker_counts_requests_that_fail_together_once() -> None:
    breaker = CircuitBreaker(3, 10.0)
    for now, sent_at in [(2.0, 1.0)] * 50 + [(2.5, 1.9), (4.0, 3.0)]:
        breaker.failed(BROKEN, now, sent_at)
    assert breaker.refuses(5.0) is None
    breaker.failed(BROKEN, 6.0, sent_at=5.0)
    assert breaker.refuses(7.0) is not None


def test_breaker_of_zero_failures_never_opens() -> None:
    breaker = CircuitBreaker(0, 10.0)
    for _ in range(100):
        breaker.failed(BROKEN, 0.0, 0.0)
    assert breaker.refuses(0.0) is None and breaker.wait_s(0.0) == 0.0


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 5), st.integers(1, 60))
def test_split_batches_are_greedy_runs_within_both_limits(
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
