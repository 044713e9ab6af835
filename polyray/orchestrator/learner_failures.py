"""Handling of a failure in a process of Ray Train: end of the training, or a restart.

    worker raises --> after_exception, in Train's controller --permanent--> the controller fails, nothing starts again
                                                             --else-------> Train starts the workers again, at most
                                                                            learner.max_failures times

Ray Train offers no failure policy to its users, and a worker that returned instead would leave other ranks waiting
for it. An error of a callback fails the controller, which then ends all workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray.train
from ray.train import UserCallback

from polyray.errors import LearnerError, PolyrayError, is_permanent, root_cause


class EndAtPermanentError(UserCallback):
    """Callback of Ray Train that prevents a restart after an error that it would repeat. The last callback."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """See ray.train.UserCallback."""
        error = permanent_error(worker_exceptions)
        if error is not None:
            raise error


def permanent_error(worker_exceptions: Mapping[int, Exception]) -> PolyrayError | None:
    """The error of the first rank that a restart would repeat, as one of ours; None where a restart may help."""
    for rank, raised in sorted(worker_exceptions.items()):
        error = root_cause(raised)
        if is_permanent(error):
            return error if isinstance(error, PolyrayError) else LearnerError(_in_words(rank, error))
    return None


def first_failure(worker_exceptions: Mapping[int, Exception]) -> str:
    """The failure of the first rank in one line; when one rank goes, the others fail because of it."""
    rank, raised = min(worker_exceptions.items())
    others = f" (and {len(worker_exceptions) - 1} other ranks)" if len(worker_exceptions) > 1 else ""
    return _in_words(rank, getattr(raised, "cause", None) or raised, others)


def training_error(error: BaseException, max_failures: int) -> BaseException:
    """The error to show for what `trainer.fit` raised."""
    if isinstance(error, ray.train.WorkerGroupError):
        failures = error.worker_failures
        if (permanent := permanent_error(failures)) is not None:
            return permanent
        return LearnerError(
            f"{first_failure(failures)}; it was the last of learner.max_failures={max_failures} restarts. Run the "
            "same command again to resume from the newest checkpoint"
        )
    cause = getattr(error, "controller_failure", None)  # of ray.train.ControllerError
    return cause if isinstance(cause, PolyrayError) else error


def _in_words(rank: int, error: BaseException, others: str = "") -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"rank {rank} of the learner{others}: {type(error).__name__}: {lines[0]}"
