"""Pauses between tries, and Retry-After headers."""

from __future__ import annotations

import pytest

from polyray.retry import MAX_BACKOFF_S, pause_s, retry_after_s


def test_pause_limit_doubles_up_to_its_maximum() -> None:
    limits = [pause_s(tries, uniform=lambda low, high: high) for tries in (1, 2, 3, 6, 7, 5000)]
    assert limits == [0.25, 0.5, 1.0, 8.0, MAX_BACKOFF_S, MAX_BACKOFF_S]
    assert pause_s(3, uniform=lambda low, high: low) == 0.0


def test_pause_is_spread_over_its_whole_range() -> None:
    pauses = [pause_s(3) for _ in range(300)]
    assert 0 <= min(pauses) < 0.2 and 0.8 < max(pauses) <= 1.0


def test_pause_jitter_follows_the_requested_wait() -> None:
    assert pause_s(2, 7.0, uniform=lambda low, high: high) == 7.5


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
