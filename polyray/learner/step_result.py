"""Ending of a step, as rank 0 decides it for all ranks of the learner."""

from __future__ import annotations

from enum import IntEnum


class StepResult(IntEnum):
    """Ending of a step for the run; a number, so that ranks can broadcast it."""

    GO_ON = 0
    FINISH = 1
    """Early stopping: this step was the run's last."""
    STOP = 2
    """The run was stopped from outside."""
    DRAIN = 3
    """End the run here with a checkpoint; the same command resumes it."""
