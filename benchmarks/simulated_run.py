"""One run with a simulated learner and simulated engines around the real coordinator, and what was seen of it.

    simulated_learner: next_batch -> sleep learn_s -> publish, through the real RemoteCoordination

The prompts, staleness gates, ledger, registry and deliveries are those of a training run; the run has no end of its
own, so there is no tail in which engines run dry.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.simulated_fleet import REWARD_APP, MeasuredCoordinator, Observations, SimulatedPool
from polyray.cluster.session import NAMESPACE
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.errors import PolyrayError
from polyray.launch.rl_worker import RemoteCoordination
from polyray.learner.embedded import build_tokenizer
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate, Probe, sha256_of
from polyray.orchestrator.rollout_actor import Scoring
from polyray.orchestrator.worker_table import groups_per_worker
from polyray.rollout.engine import EngineSettings
from polyray.types import PolicyVersion

CALL_TIMEOUT_S = 60.0
START_TIMEOUT_S = 600.0
"""Hosts import torch, all at once."""
ENDLESS = 1_000_000
"""Steps in the configuration; the simulated learner stops after as many as it was told."""


@dataclass(frozen=True, slots=True)
class SimulatedLoad:
    """Size and settings of one simulated run.

    Example:
        SimulatedLoad(num_workers=64, max_staleness=1, prompts_per_step=512, group_size=4, max_sequences=8,
                      max_completion_tokens=160, simulation={"step_s": .03}, learn_s=2.0, steps=6)
    """

    num_workers: int
    max_staleness: int
    prompts_per_step: int
    group_size: int
    max_sequences: int
    max_completion_tokens: int
    simulation: dict[str, Any]
    learn_s: float
    steps: int
    score_s: float = 0.02
    payload_bytes: int = 1 << 16

    @property
    def window(self) -> int:
        """Groups in flight per worker, as the coordinator counts them."""
        return groups_per_worker(self.rollout(), self.rollout().num_workers)

    def rollout(self) -> RolloutSpec:
        """Rollout settings of the workers."""
        values = {
            "engine": "simulated",
            "num_workers": self.num_workers,
            "prompts_per_step": self.prompts_per_step,
            "group_size": self.group_size,
            "max_sequences": self.max_sequences,
            "max_completion_tokens": self.max_completion_tokens,
            "max_staleness": self.max_staleness,
            "simulation": self.simulation,
            "start_timeout_s": START_TIMEOUT_S,
        }
        return RolloutSpec.model_validate(values)

    def config(self) -> TrainConfig:
        """The configuration that the coordinator gets."""
        rollout = self.rollout().model_dump()
        return TrainConfig.model_validate(
            {"name": "simulated", "rollout": rollout, "learner": {"steps": ENDLESS}, "dynamics": None}
        )


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """One step of the simulated learner, by the machine's monotonic clock.

    Example:
        SimulatedStep(asked=10.0, got=12.0, learned=14.0, published=14.1, group_ids=(0, 1), staleness=.5,
                      generate_s=1.9, usage={"cpu_s": .8})
    """

    asked: float
    got: float
    learned: float
    published: float
    """Time at which publish() returned."""
    group_ids: tuple[int, ...]
    staleness: float
    generate_s: float
    """The coordinator's generate_s: from the learner's wait until the batch was generated."""
    usage: dict[str, Any]
    """Resource use of the coordinator when the batch was there (MeasuredCoordinator.usage)."""


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """Observations of one run: by the learner and by the workers."""

    load: SimulatedLoad
    steps: tuple[SimulatedStep, ...]
    seen: Observations


def run_simulated(
    load: SimulatedLoad,
    pool_type: type[SimulatedPool] = SimulatedPool,
    before: Callable[[SimulatedPool], None] | None = None,
    after_step: Callable[[int, SimulatedPool], None] | None = None,
) -> SimulatedRun:
    """Starts coordinator and workers, takes `load.steps` steps, and ends them. Needs Ray.

    `before` is called when the workers are there, `after_step` with its number when a step's version is published.
    """
    config = load.config()
    with tempfile.TemporaryDirectory(prefix="polyray-simulated-") as directory:
        build_tokenizer().save_pretrained(directory)
        with _simulated_parts(config, load, Path(directory), pool_type, before) as (pool, coordinator):
            coordination = RemoteCoordination(coordinator, config, rank=0, world_size=1)
            steps = []
            for step in _simulated_learner(coordination, coordinator, load):
                steps.append(step)
                if after_step is not None:
                    after_step(len(steps) - 1, pool)
            failure: Any = ray.get(coordinator.failure.remote(), timeout=CALL_TIMEOUT_S)
            if failure is not None:
                raise failure
            pool.adopt(ray.get(coordinator.workers.remote(), timeout=CALL_TIMEOUT_S))
            seen = Observations()
            for part in ray.get([host.observations.remote() for host in pool.hosts], timeout=CALL_TIMEOUT_S):
                seen.merge(part)
    return SimulatedRun(load, tuple(steps), seen)


@contextmanager
def _simulated_parts(
    config: TrainConfig,
    load: SimulatedLoad,
    model_dir: Path,
    pool_type: type[SimulatedPool],
    before: Callable[[SimulatedPool], None] | None,
) -> Iterator[tuple[SimulatedPool, Any]]:
    pool = pool_type("simulated", config.rollout, load.score_s)
    coordinator: Any = None
    try:
        pool.build(EngineSettings(str(model_dir), "float32", config.rollout))
        pool.wait_until_ready()
        if before is not None:
            before(pool)
        scoring = Scoring(
            REWARD_APP, config.reward.service, False, config.algorithm, config.rollout.group_timeout_s
        )
        actor = ray.remote(MeasuredCoordinator).options(num_cpus=0, max_concurrency=1000, namespace=NAMESPACE)
        coordinator = actor.remote(config, pool, scoring, "float32")
        yield pool, coordinator
    finally:
        if coordinator is not None:
            ray.kill(coordinator)
        pool.shutdown()


def _simulated_learner(
    coordination: RemoteCoordination, coordinator: Any, load: SimulatedLoad
) -> Iterator[SimulatedStep]:
    attempt = coordination.begin_attempt(None)
    _published(coordination.publish(simulated_payload(attempt, 0, load.payload_bytes)))
    for step in range(load.steps):
        asked = time.perf_counter()
        batch = coordination.next_batch(step)
        got = time.perf_counter()
        if isinstance(batch, StepResult):
            failure: Any = ray.get(coordinator.failure.remote(), timeout=CALL_TIMEOUT_S)
            raise failure or PolyrayError("the coordinator stopped the simulated run")
        usage: Any = ray.get(coordinator.usage.remote(), timeout=CALL_TIMEOUT_S)
        time.sleep(max(0.0, load.learn_s - (time.perf_counter() - got)))
        learned = time.perf_counter()
        _published(coordination.publish(simulated_payload(attempt, step + 1, load.payload_bytes)))
        group_ids = tuple(group.group.group_id for group in batch.groups)
        yield SimulatedStep(
            asked=asked,
            got=got,
            learned=learned,
            published=time.perf_counter(),
            group_ids=group_ids,
            staleness=float(batch.counters["staleness_mean"]),
            generate_s=float(batch.timings["generate_s"]),
            usage=usage,
        )


def _published(receipt: Any) -> None:
    if receipt is None:
        raise PolyrayError("the coordinator refused a version of the simulated run")


def simulated_payload(attempt: int, version: int, num_bytes: int) -> PolicyUpdate:
    """Bytes that are no real weights, and a probe that every simulated engine answers."""
    content = version.to_bytes(8, "big") * (num_bytes // 8)
    logprobs = np.array([-0.5 * version, -1.0], np.float32)
    previous = None if version == 0 else np.array([-0.5 * (version - 1), -1.0], np.float32)
    policy = PolicyVersion(attempt, version, sha256_of(content))
    return PolicyUpdate(policy, content, None, Probe(((1, 2, 3),), logprobs, previous))
