"""Progress of a run, as its driver shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from polyray.orchestrator.run_state import RunState


@dataclass(slots=True)
class RunProgress:
    """Belongs to the coordinator's event loop.

    Example:
        RunProgress(phase="training", version=17, groups_done=272, tokens=87040)
    """

    phase: str = "starting"
    version: int = 0
    groups_done: int = 0
    tokens: int = 0
    """Tokens of groups for the learner, without validation rounds."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The newest line."""
    alarms: int = 0
    """Alarms for over-optimisation."""

    def shown(self, num_tokens: int, run_state: RunState, incidents_seen: int) -> dict[str, Any]:
        """Plain values for the driver.

        `num_tokens`: all of them; incidents from the `incidents_seen`-th on.
        """
        return {
            "phase": self.phase if run_state.failure is None else "failed",
            "step": self.version,
            "groups_done": self.groups_done,
            "tokens": num_tokens,
            "metrics": self.metrics,
            "alarms": self.alarms,
            "incidents": run_state.incidents[incidents_seen:],
        }
