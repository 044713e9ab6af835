"""Alarm for over-optimisation (reward hacking)."""

from __future__ import annotations

from pydantic import Field

from polyray.config.base import StrictModel

SIGNIFICANCE = 0.01
"""Significance of each of the two one-sided Mann-Kendall trend tests."""


class OverOptimisationSpec(StrictModel):
    """The alarm: over the last `window` steps the reward rose and the second opinion fell, both significantly."""

    window: int = Field(default=30, ge=10, description="steps; until there are so many there is no alarm")
    min_rise: float = Field(
        default=0.01, ge=0, description="rise of the reward's mean over the window, by the Theil-Sen line"
    )
    max_fall: float = Field(
        default=0.01, ge=0, description="tolerated fall of the second opinion's mean over the window"
    )
    stop: bool = Field(default=False, description="the run ends with an error; false: it warns")


def alarm_text(spec: OverOptimisationSpec) -> str:
    """Message for people when the alarm is raised."""
    return (
        f"over-optimisation: over the last {spec.window} steps the reward rose by at least {spec.min_rise:g} and the "
        f"second opinion fell by more than {spec.max_fall:g}, both significantly (p <= {SIGNIFICANCE:g}); read "
        "rollouts.jsonl, and consider an earlier version, a larger algorithm.kl_coefficient or a better reward"
    )
