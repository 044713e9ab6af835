"""Limit concurrent weight syncs; an idle worker may always sync.

A worker whose engine must be empty for a load takes no more groups until it is done, so the others wait and keep
sampling. A worker that has run out of groups meanwhile (the staleness gate gives it no more of its old version)
would only idle, so it need not wait. Plain asyncio; used by the coordinator's serving fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WeightSyncLimiter:
    """First come, first served; `limit` workers with groups at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loading = 0
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        """Waiting workers; the answer says whether the worker's turn is counted."""

    def allow(self, limit: int) -> None:
        """From now on so many at a time."""
        self._limit = limit
        self._admit()

    @asynccontextmanager
    async def turn(self, name: str, idle: bool) -> AsyncIterator[None]:
        """Waits until the worker may load; it is done at the end of the block."""
        counted = await self._enter(name, idle)
        try:
            yield
        finally:
            if counted:
                self._loading -= 1
                self._admit()

    def ran_out(self, name: str) -> None:
        """A worker has nothing to do any more."""
        waiting = self._waiting.pop(name, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(False)

    async def _enter(self, name: str, idle: bool) -> bool:
        if idle:
            return False
        answer = self._waiting[name] = asyncio.get_running_loop().create_future()
        self._admit()
        try:
            return await answer
        except asyncio.CancelledError:
            self._waiting.pop(name, None)
            if answer.done() and not answer.cancelled() and answer.result():
                self._loading -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._loading < self._limit and self._waiting:
            waiting = self._waiting.pop(next(iter(self._waiting)))
            if not waiting.done():
                self._loading += 1
                waiting.set_result(True)
