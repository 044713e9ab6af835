"""Gauges of a replica that stay: each is set every few seconds, whether anything happens or not.

Ray drops a gauge that was not set for two of its intervals of 10 s. One that is set by events alone is gone when
nothing happens any more, which is when a queue or a call that hangs is to be seen. Both services start `keep_set`
with their replica. Counters and histograms stay by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

SET_EVERY_S = 5.0


async def keep_set(
    set_gauges: Callable[[], None], sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Call `set_gauges` at once and every SET_EVERY_S, until cancelled.

    It sets each gauge to its current value. An error of `set_gauges` is a warning and ends the loop: a replica
    serves without its gauges, too.
    """
    try:
        while True:
            set_gauges()
            await sleep(SET_EVERY_S)
    except Exception as error:
        logger.warning(
            "gauges are no longer set, the replica still serves: %s: %s",
            type(error).__name__,
            error,
            exc_info=error,
        )
