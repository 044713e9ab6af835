"""Pauses between the tries of a call: full jitter, and the Retry-After of an HTTP answer."""

from __future__ import annotations

import email.utils
import math
import random
from collections.abc import Callable

BACKOFF_S = 0.25
"""Limit of the pause after the first try; it doubles with each try."""
MAX_BACKOFF_S = 10.0

Uniform = Callable[[float, float], float]
"""(low, high) -> a random number between them."""


def pause_s(tries: int, after_s: float | None = None, uniform: Uniform = random.uniform) -> float:
    """Pause after try number `tries`; `after_s` is what the service asked for, and the jitter follows it."""
    limit_s = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(tries - 1, 30))
    return uniform(0.0, limit_s) + (after_s or 0.0)


def retry_after_s(value: str | None, wall_now: float) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date; None for any other text.

    `wall_now` is seconds since the epoch.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - wall_now
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
