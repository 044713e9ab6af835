"""Whether the learner is there: Ray Train says when it fails, and it starts again when there is a place for it."""

from __future__ import annotations

import time

from polyray.orchestrator.run_state import RunState

RESTARTING = "waiting for the learner to start again"
"""The phase of a run meanwhile."""
PATIENCE_S = 120.0
"""Longer than most starts take where there is a place."""


class TrainerLiveness:
    """Belongs to the coordinator's event loop."""

    def __init__(self, run_state: RunState) -> None:
        self._run_state = run_state
        self._gone_since: float | None = None
        self._told = False

    @property
    def is_gone(self) -> bool:
        """Whether the learner failed and the next one has not called yet."""
        return self._gone_since is not None

    def failed(self, reason: str) -> None:
        """The learner has ended, or one of its ranks, and may start again."""
        self._gone_since, self._told = time.monotonic(), False
        self._run_state.incident("learner_failed", reason)

    def heartbeat(self) -> None:
        """A call of it has come in since: not one that had been waiting for its answer."""
        self._gone_since = None

    def check(self) -> None:
        """Report a long restart of the learner once, as an incident."""
        if self._gone_since is None or self._told or time.monotonic() - self._gone_since < PATIENCE_S:
            return
        self._told = True
        self._run_state.incident(
            "learner_waits",
            f"the learner failed {PATIENCE_S:g} s ago and has not begun again: it loads its model, or waits for a "
            "place (ray status shows what is missing)",
        )
