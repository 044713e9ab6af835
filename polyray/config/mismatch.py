"""Alarm for a mismatch of engine and learner."""

from __future__ import annotations

from pydantic import Field

from polyray.config.base import StrictModel


class MismatchAlarmSpec(StrictModel):
    """The alarm: over the last `window` steps a median is beyond its limit, or the mismatch grows towards it.

    Grows: kl_rollout rises (or ess falls), significantly (p <= .01) by the one-sided Mann-Kendall test, and the
    median is past a fifth of the way from no mismatch (kl_rollout 0, ess 1) to the limit.
    """

    window: int = Field(default=20, ge=5, description="steps; until there are so many there is no alarm")
    kl_rollout: float = Field(
        default=0.05, gt=0, description="nats per token between engine and learner, the median's upper limit"
    )
    ess: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="effective share of the sample, the median's lower limit; 0: not watched",
    )
    stop: bool = Field(default=False, description="the run ends with an error; false: it warns")


def mismatch_text(spec: MismatchAlarmSpec) -> str:
    """Message for people when the alarm is raised."""
    return (
        f"engine-learner mismatch: over the last {spec.window} steps kl_rollout is above {spec.kl_rollout:g} or ess "
        f"below {spec.ess:g}, or they are on their way there; updates are made on samples of another policy. Lower "
        "rollout.max_staleness or learner.learning_rate; at max_staleness=0 engine and learner compute differently: "
        "compare logprob_difference_max with delivery_difference_max, and use one dtype for both"
    )
