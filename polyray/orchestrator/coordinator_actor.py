"""The coordinator as an actor of Ray: where it runs, and how many calls it takes at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
import ray.exceptions
from ray.train import UserCallback

from polyray.cluster.session import NAMESPACE, on_this_node, reap
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.orchestrator.coordinator import Coordinator
from polyray.orchestrator.learner_failures import first_failure, permanent_error
from polyray.orchestrator.rollout_actor import Scoring
from polyray.orchestrator.rollout_pool import RolloutPool

MAX_CONCURRENT_CALLS = 1000
"""Long polls of every learner worker, and the driver's questions: none may wait for another."""

CALL_TIMEOUT_S = 60.0
logger = logging.getLogger(__name__)


class TellCoordinator(UserCallback):
    """Callback of Ray Train that tells a run's coordinator of a failure, and whether the learner starts again.

    Lives in the process of Train's controller, which waits for the answer."""

    def __init__(self, name: str, rollout: RolloutSpec) -> None:
        """`name`: as in `start_coordinator`."""
        self._name = name
        # An engine that shares the learner's GPU finishes what it has before it sleeps.
        self._timeout_s = CALL_TIMEOUT_S + (rollout.group_timeout_s if rollout.sleep_between_steps else 0.0)

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """See ray.train.UserCallback."""
        try:
            coordinator = ray.get_actor(self._name, namespace=NAMESPACE)
            error = permanent_error(worker_exceptions)
            told = (
                coordinator.learner_failed.remote(first_failure(worker_exceptions))
                if error is None
                else coordinator.end.remote(error)
            )
            ray.get(told, timeout=self._timeout_s)
        except (ValueError, ray.exceptions.RayError, TimeoutError) as error:
            logger.warning("the coordinator could not be told of the learner's failure: %r", error)


def start_coordinator(name: str, config: TrainConfig, pool: RolloutPool, scoring: Scoring) -> Any:
    """Start a coordinator called `name` on the caller's node; first end any older actor of that name.

    The run cannot continue without its coordinator, so it depends on the driver's node only. Any other lost node
    then means lost workers, which are replaced.
    """
    reap(name)
    actor = ray.remote(Coordinator).options(
        name=name,
        namespace=NAMESPACE,
        num_cpus=0,
        max_concurrency=MAX_CONCURRENT_CALLS,
        scheduling_strategy=on_this_node(),
    )
    return actor.remote(config, pool, scoring, pool.settings.dtype)
