"""Completions of the engine as async streams.

    event loop --requests, cancels--> the thread of its worker --parts of texts--> event loop

A completion joins the running batch, or leaves it, at the next step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress

from polyray.models.adapter import PolicyUpdate
from polyray.rollout.worker import RolloutWorker
from polyray.types import TextDelta, TextRequest
from polyray.weight_sync.proof import SyncAck

Part = TextDelta | BaseException


class TextEngine(RolloutWorker):
    """A worker for one event loop, the one that calls `start`; its engine is built for texts."""

    in_flight = 0
    """Completions that were asked for and have neither ended nor been given up."""

    async def start(self) -> None:
        """Waits until the engine is built. Raises what its construction raised."""
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[tuple[asyncio.Queue[Part], Part]] = deque()
        self._handing_out = False
        await asyncio.wrap_future(self.ready)

    async def generate(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """The completion as it comes; closing the generator takes it out of the engine. Raises RolloutError where no
        adapter of that run is loaded, or the engine is dead."""
        parts: asyncio.Queue[Part] = asyncio.Queue()
        cancel = self.submit_text(request, lambda part: self._arrive(parts, part))
        self.in_flight += 1
        try:
            while not isinstance(part := await parts.get(), BaseException):
                yield part
                if part.finish_reason is not None:
                    return
            raise part
        finally:
            self.in_flight -= 1
            cancel()

    async def load(self, payload: PolicyUpdate) -> SyncAck:
        """Serves this adapter from now on under its run; the run's former one stays for what runs on it. Raises
        WeightSyncError where it is refused; nothing has changed then."""
        return await asyncio.wrap_future(self.deliver(payload))

    async def close(self) -> None:
        """Ends the engine, and removes what it keeps outside its process. Called once, last."""
        await asyncio.to_thread(self.stop)

    def _arrive(self, parts: asyncio.Queue[Part], part: Part) -> None:
        """In the engine's thread. The first part of a step wakes the event loop, which takes later ones along."""
        self._arrived.append((parts, part))
        if not self._handing_out:
            self._handing_out = True
            with suppress(RuntimeError):  # the loop has been closed: no caller waits any more
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._handing_out = False
        while self._arrived:
            parts, part = self._arrived.popleft()
            parts.put_nowait(part)
