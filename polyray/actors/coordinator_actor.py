"""The coordinator as an actor of Ray: where it runs, and how many calls it takes at once."""

from __future__ import annotations

from typing import Any

import ray

from polyray.actors.coordinator import Coordinator
from polyray.actors.resources import NAMESPACE, on_this_node, reap
from polyray.actors.rollout_actor import Scoring
from polyray.actors.rollout_pool import RolloutPool
from polyray.config.run import TrainConfig

MAX_CONCURRENT_CALLS = 1000
"""Long polls of every learner worker, and the driver's questions: none may wait for another."""


def start_coordinator(name: str, config: TrainConfig, pool: RolloutPool, scoring: Scoring) -> Any:
    """A new one, called `name`, on the caller's node; what still has the name is ended first.

    The run cannot go on without it, so it may share no fate but its driver's: the loss of any other node is then
    the loss of workers, which are replaced.
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
