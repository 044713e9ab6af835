"""One replica of the generation service: an engine, the adapters it serves, the store, and what answers requests.

A plain class that needs no Ray's processes; app.py deploys it, routes.py puts HTTP around it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.generation import GenerationServeConfig
from polyray.data.selections.store import SelectionStore
from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate
from polyray.models.base_files import resolve_dtype, resolve_model_dir
from polyray.orchestrator.reward_client import RemoteCall, RewardClient
from polyray.rewards import plan_reward
from polyray.rollout.engine import EngineSettings
from polyray.serving.gauges import keep_set
from polyray.serving.generation.access_log import install_access_log
from polyray.serving.generation.adapter_sync import ServedAdapters
from polyray.serving.generation.candidates import CandidateMaker
from polyray.serving.generation.completions import Completing
from polyray.serving.generation.health import EngineHealth
from polyray.serving.generation.metrics import GenerationMetrics
from polyray.serving.generation.policies import LivePolicies
from polyray.serving.generation.request_parser import RequestParser
from polyray.serving.generation.sampling import Sampler
from polyray.serving.generation.scoring import CandidateScoring
from polyray.serving.generation.sources import BASE
from polyray.serving.generation.text_engine import TextEngine
from polyray.serving.generation.tokens import TokenBook
from polyray.serving.replica_log import log_as_replica

ANSWER_BEFORE_CALLER = 0.9
"""The service gives up after this share of request_timeout_s: the caller reads why instead of timing out."""


class GenerationService:
    """One replica. Nothing answers before `start`, which Serve calls through `reconfigure`."""

    def __init__(
        self,
        config: GenerationServeConfig,
        book: TokenBook,
        reward_app: str | None = None,
        root: str | None = None,
    ) -> None:
        """One replica, not started.

        Args:
            config: with a model and a database that this process finds.
            book: the known callers.
            reward_app: the Serve application of the reward; None: there is none, or it is a service elsewhere.
            root: base of relative directories in requests; None: the current directory.
        """
        log_as_replica()
        self.root = root or os.getcwd()
        self.config = config
        self.book = book
        self.metrics = GenerationMetrics()
        self._reward_app = reward_app
        self._engine: TextEngine | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's hook: the first call starts the replica, and its errors end the start."""
        if self._engine is None:
            await self.start()

    async def start(self) -> None:
        """Builds the engine, serves the base and the configured adapters, opens the store."""
        from polyray.models.tokenizer import load_tokenizer

        install_access_log()
        config = self.config
        model_dir = await asyncio.to_thread(resolve_model_dir, config.model)
        dtype = resolve_dtype(config.model, config.num_gpus > 0)
        self.store = await asyncio.to_thread(SelectionStore, config.database)
        self._engine = engine = build_engine(config, model_dir, dtype)
        tokenizer = await asyncio.to_thread(load_tokenizer, model_dir)
        await engine.start()
        sequences = await asyncio.to_thread(_probe_sequences, config, model_dir, dtype)

        def reference(directory: Path | None, version: int, previous: np.ndarray | None) -> PolicyUpdate:
            from polyray.weight_sync.probe import adapter_on_disk

            return adapter_on_disk(directory, model_dir, dtype, sequences, version, previous)

        self.policies = LivePolicies(engine, reference, dtype, config.max_adapters, self.metrics)
        await self.policies.start()
        self.adapters = ServedAdapters(
            self.policies,
            self.store,
            config.adapters,
            config.adapter_roots,
            config.max_lora_rank,
        )
        await self.adapters.start()
        limits = config.limits
        self.sampler = Sampler(
            engine,
            config.engine.max_sequences,
            config.engine.max_queued_sequences,
            limits.request_timeout_s * ANSWER_BEFORE_CALLER,
            self.metrics,
        )
        asking = RequestParser(config, tokenizer, self.policies)
        self.completing = Completing(asking, self.sampler, tokenizer)
        scoring = CandidateScoring(self._reward_client(), config.diversity)
        self.candidates = CandidateMaker(config, asking, self.sampler, scoring, self.store)
        self.health = EngineHealth(engine, sequences[0][:1], BASE, config.engine.health_timeout_s)
        self._tasks = [
            asyncio.create_task(self.adapters.keep_looking(config.follow_interval_s)),
            asyncio.create_task(keep_set(self._set_gauges)),
        ]

    def info(self) -> dict[str, Any]:
        """Answer of GET /v1/info."""
        config = self.config
        return {
            "name": config.name,
            "process": os.getpid(),
            "model": config.model.path,
            "selector": config.selector,
            "has_reward": config.reward is not None,
            "diversity": config.diversity.source,
            "max_candidates": config.limits.max_candidates,
            "max_n": config.limits.max_n,
            "max_prompt_tokens": config.engine.max_prompt_tokens,
            "max_completion_tokens": config.engine.max_completion_tokens,
            "running_sequences": self.sampler.running,
            "queued_sequences": self.sampler.queued,
            "counts": {model: asdict(counts) for model, counts in self.metrics.counts_by_model().items()},
            "adapters": {
                key: {**spec.model_dump(exclude_none=True), "trouble": self.adapters.troubles.get(key)}
                for key, spec in self.adapters.specs.items()
            },
        }

    def held(self) -> dict[str, int]:
        """Versions that the engine holds, and how many completions run on each."""
        return {} if self._engine is None else self._engine.held()

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        if self._engine is None:
            raise RolloutError("this replica has not started")
        await self.health.check()

    async def close(self) -> None:
        """Ends the engine, and what keeps looking and counting; the store gives its connections back."""
        for task in self._tasks:
            task.cancel()
        if self._engine is not None:
            await self._engine.close()
            self.store.close()

    def _set_gauges(self) -> None:
        self.metrics.load(self.sampler.queued, self.sampler.running)
        self.metrics.set_difference()

    def _reward_client(self) -> RewardClient | None:
        reward = self.config.reward
        if reward is None:
            return None
        if self._reward_app is not None:
            return RewardClient(self._reward_app, reward.service)
        plan = plan_reward(reward, self.config.task, self.config.diversity)
        return RewardClient(f"{self.config.name}: {reward.type}", reward.service, RemoteCall(plan))


def build_engine(config: GenerationServeConfig, model_dir: Path, dtype: str) -> TextEngine:
    """The engine that the configuration asks for; its construction continues in the background."""
    from polyray.rollout.vllm_engine import VllmEngine

    adapters = config.max_adapters + 1
    settings = EngineSettings(str(model_dir), dtype, config.rollout(), config.max_lora_rank, adapters)
    return TextEngine(config.name, lambda: VllmEngine(settings, texts=True))


def _probe_sequences(
    config: GenerationServeConfig, model_dir: Path, dtype: str
) -> tuple[tuple[int, ...], ...]:
    from polyray.weight_sync.probe import probe_sequences

    rollout = config.rollout()
    return probe_sequences(config.task, rollout, config.num_probes, 0, model_dir, dtype)
