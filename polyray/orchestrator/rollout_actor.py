"""A rollout worker as a Ray actor: samples a group, has it scored, answers with metadata and a reference.

`RolloutActor` wraps the plain `RolloutWorker`; texts go from it straight to the reward service, so only metadata
passes through the caller. Started and replaced by rollout_pool.py.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from polyray.config.algorithm import AlgorithmSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.service import ServiceSpec
from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.reward_client import RemoteCall, RewardClient
from polyray.rewards import RewardPlan
from polyray.rollout.engine import EngineSettings
from polyray.rollout.worker import RolloutWorker
from polyray.runs.logging import log_as, log_at
from polyray.types import EngineUsage, Group, GroupRequest, PolicyVersion, ScoredGroup
from polyray.weight_sync.proof import SyncAck

if TYPE_CHECKING:
    from polyray.config.periodic_eval import EvalPlan
    from polyray.periodic_eval import ValidationSummary


@dataclass(frozen=True, slots=True)
class Scoring:
    """The reward service of a worker, and the settings of scoring.

    Example:
        Scoring(app_name="quickstart-reward", service=ServiceSpec(), want_distances=False, algorithm=GrpoSpec(),
                group_timeout_s=300.0)
    """

    app_name: str
    service: ServiceSpec
    want_distances: bool
    algorithm: AlgorithmSpec
    """Decides which completions take part and, with dynamic sampling, which groups have no training signal."""
    group_timeout_s: float
    """Limit of a group in the engine; the time until it is scored has limits of its own."""
    remote: RewardPlan | None = None
    """Set where the reward is a service elsewhere: `app_name` then only names it."""


@dataclass(frozen=True, slots=True)
class RolloutReply:
    """Metadata of a group for the coordinator; the group itself travels beside it as a reference.

    Example:
        RolloutReply(group_id=40, policy=PolicyVersion(...), num_tokens=96, num_samples=16, num_scored=16,
                     num_taking_part=16, has_signal=True, generate_s=.2, score_s=.01, error=None)
    """

    group_id: int
    policy: PolicyVersion
    num_tokens: int
    num_samples: int
    num_scored: int
    num_taking_part: int
    """Scored, and not left out for being truncated."""
    has_signal: bool
    """False: dynamic sampling was asked for, and all advantages are equal."""
    generate_s: float
    score_s: float
    error: str | None
    """First reason for an unscored completion."""
    retried: str | None = None
    """Newest reason for a retry of the reward service since this worker's previous reply."""


class RolloutActor:
    """One engine in one Ray actor (async: many groups at a time).

    The engine's library is imported at once, which takes longer than all the rest; the engine is built when
    `build` names its model, which may not exist yet when the actor starts.
    """

    def __init__(
        self, name: str, rollout: RolloutSpec, clients: dict[str, RewardClient] | None = None
    ) -> None:
        """Start a worker that imports the engine's library at once.

        `rollout` determines the library. `clients` by application name are used instead of new ones (simulations
        share one that makes no calls).
        """
        log_as(name, name.partition("-rollout-")[0])  # a pool's workers are called after the run that owns it
        self._name = name
        self._settings: Future[EngineSettings] = Future()
        self._worker = RolloutWorker(name, lambda: engine_builder(rollout)(self._settings.result()))
        self._clients: dict[str, RewardClient] = clients if clients is not None else {}

    async def build(self, settings: EngineSettings) -> None:
        """Called once, before anything else is asked."""
        self._settings.set_result(settings)

    async def ready(self) -> dict[str, Any]:
        """Waits for the engine; says how long it took and where it lives."""
        start_s = await asyncio.wrap_future(self._worker.ready)
        node_id = ray.get_runtime_context().get_node_id()
        return {"name": self._name, "start_s": start_s, "pid": os.getpid(), "node_id": node_id}

    async def rollout(self, request: GroupRequest, scoring: Scoring) -> tuple[RolloutReply, ScoredGroup]:
        """Samples and scores a group: two return values, so that the second stays a reference at the
        caller."""
        started = time.perf_counter()
        group = await self._sampled(request, scoring.group_timeout_s)
        generated = time.perf_counter()
        scored, error = await self._scored(group, scoring)
        retried = self._clients[scoring.app_name].take_trouble()
        num_taking_part, has_signal = usefulness(scored, scoring.algorithm, request.max_completion_tokens)
        reply = RolloutReply(
            group_id=group.group_id,
            policy=group.policy,
            num_tokens=group.num_tokens,
            num_samples=len(group.completions),
            num_scored=int(scored.scored_mask_G.sum()),
            num_taking_part=num_taking_part,
            has_signal=has_signal,
            generate_s=generated - started,
            score_s=time.perf_counter() - generated,
            error=error,
            retried=retried,
        )
        return reply, scored

    async def validate(self, request: GroupRequest, scoring: Scoring, plan: EvalPlan) -> ValidationSummary:
        """Samples and scores a group of a round, of which only the values leave this process."""
        from polyray.periodic_eval import summarise

        group = await self._sampled(request, scoring.group_timeout_s, of_round=True)
        scored, _ = await self._scored(group, scoring)
        return await asyncio.to_thread(summarise, scored, plan)

    async def _sampled(self, request: GroupRequest, timeout_s: float, *, of_round: bool = False) -> Group:
        """A round comes all at once, so its groups may wait for as long as the engine makes steps."""
        answer = asyncio.wrap_future(self._worker.submit(request))
        while True:
            before = self._worker.progress
            done, _ = await asyncio.wait({answer}, timeout=timeout_s)
            if done:
                return answer.result()
            if not of_round or self._worker.progress == before:
                raise RolloutError(
                    f"group {request.group_id} was not sampled within rollout.group_timeout_s={timeout_s:g} s"
                )

    async def _scored(self, group: Group, scoring: Scoring) -> tuple[ScoredGroup, str | None]:
        """The group with its rewards, and the first reason why one of them is missing."""
        client = self._clients.get(scoring.app_name)
        if client is None:
            call = None if scoring.remote is None else RemoteCall(scoring.remote)
            client = RewardClient(scoring.app_name, scoring.service, call)
            self._clients[scoring.app_name] = client
        texts = [completion.text for completion in group.completions]
        scores = await client.score_group(group.prompt, texts, scoring.want_distances)
        scored = ScoredGroup(
            group, scores.rewards_G, scores.classes_G, scores.distances_GG, scores.components
        )
        return scored, next((error for error in scores.errors if error), None)

    async def sample(self, requests: Sequence[GroupRequest]) -> list[Group]:
        """Samples some groups without scoring them; answers when all are done."""
        return await asyncio.gather(
            *(asyncio.wrap_future(self._worker.submit(request)) for request in requests)
        )

    async def deliver(self, payload: PolicyUpdate) -> tuple[SyncAck, float]:
        """Loads a version after what is in flight; answers the probe and the engine's busy seconds so far."""
        ack = await asyncio.wrap_future(self._worker.deliver(payload))
        log_at(version=payload.policy.version)
        return ack, self._worker.usage.busy_s

    async def sleep(self) -> float:
        """Put the engine to sleep after its current work, until there is new work; returns the seconds it took."""
        return await asyncio.wrap_future(self._worker.sleep())

    async def forget(self, run: str) -> None:
        """The run has ended, or was ended: the engine works for the others alone."""
        self._worker.forget(run)

    async def usage(self) -> EngineUsage:
        """The engine's time so far, by purpose."""
        return self._worker.usage


def usefulness(group: ScoredGroup, algorithm: AlgorithmSpec, max_tokens: int) -> tuple[int, bool]:
    """(completions that take part, whether they have training signal); computed if the algorithm needs it."""
    if algorithm.truncated != "drop" and not algorithm.dynamic_sampling:
        return int(group.scored_mask_G.sum()), True
    from polyray.learner.advantages import algorithm_at, group_has_signal, valid_mask

    current = algorithm_at(algorithm, group.group.policy.version)
    has_signal = not algorithm.dynamic_sampling or group_has_signal(group, current, max_tokens)
    return int(valid_mask(group, current).sum()), has_signal


def engine_builder(rollout: RolloutSpec) -> Callable[[EngineSettings], Any]:
    """Builder of the engine that `rollout` asks for; its library is imported when this returns."""
    if rollout.engine_kind == "simulated":
        from polyray.rollout.simulated_engine import SimulatedEngine

        return lambda settings: SimulatedEngine(Path(settings.model_dir), settings.rollout)
    from polyray.rollout.vllm_engine import VllmEngine, import_vllm

    import_vllm(rollout)
    return VllmEngine
