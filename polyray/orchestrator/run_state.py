"""Incidents and final failure of a run, shared by everything in its coordinator's event loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from polyray.errors import PolyrayError

logger = logging.getLogger(__name__)

MAX_INCIDENTS = 10_000
"""Limit per run, so that repeated failures do not fill memory."""


@dataclass(slots=True)
class RunState:
    """Incidents and final failure of a run, and the event that wakes its waiters.

    Example:
        run_state = RunState(); run_state.fail(RolloutError("...")); run_state.failure  # the first one
    """

    failure: PolyrayError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    incidents: list[dict[str, str]] = field(default_factory=list)
    """Faults so far, in words, survived or not; the driver writes them to incidents.jsonl."""

    def fail(self, error: PolyrayError) -> None:
        """The first failure counts."""
        if self.failure is None:
            self.failure = error
            self.incident("failure", str(error))
        self.changed.set()

    async def woken(self) -> None:
        """Waits until something changes: a group, a delivery, the end."""
        self.changed.clear()
        await self.changed.wait()

    def incident(self, kind: str, message: str) -> None:
        """Remembers what happened; `kind` is a word to filter by."""
        if len(self.incidents) < MAX_INCIDENTS:
            self.incidents.append({"kind": kind, "message": message})
            # Words that a reward may have put together from a prompt stay in the run's own directory.
            logger.warning("incident: %s; incidents.jsonl says more", kind)
