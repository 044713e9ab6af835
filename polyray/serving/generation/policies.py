"""Served adapters and their names: loading with proof, aliases, and a limit.

    load: files --reference log-probs--> payload --engine--> its log-probs --SyncVerifier--> served

A request resolves its model once and keeps that version, even if others are loaded or it is unloaded: the engine
holds an adapter as long as something runs on it. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from polyray.errors import PolyrayError
from polyray.models.adapter import PolicyUpdate
from polyray.serving.generation.errors import AdapterConflict, UnknownPolicy
from polyray.serving.generation.metrics import GenerationMetrics
from polyray.serving.generation.sources import BASE, AdapterSource
from polyray.serving.generation.text_engine import TextEngine
from polyray.types import PolicyVersion
from polyray.weight_sync.proof import SyncVerifier

Reference = Callable[[Path | None, int, np.ndarray | None], PolicyUpdate]
"""(adapter directory, or None for the base; version; log-probs of what was loaded last) -> the adapter with the
log-probs that prove it. Blocks."""


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """A model that is served.

    Example:
        LivePolicy(model="policy-v17", policy=PolicyVersion(...), source="runs/first/versions/17", version=17,
                   created=1760000000, difference=8e-7, pinned=False)
    """

    model: str
    policy: PolicyVersion
    source: str
    version: int | None
    created: int
    difference: float
    """Largest |engine - reference| log-prob of the probe, in nats."""
    pinned: bool
    """True: it is never unloaded to make room."""
    number: int = 0
    """Number of its load, counted up."""


class LivePolicies:
    """The base, and at most `max_adapters` beside it."""

    def __init__(
        self,
        engine: TextEngine,
        reference: Reference,
        dtype: str,
        max_adapters: int,
        metrics: GenerationMetrics,
    ) -> None:
        self._metrics = metrics
        self._engine = engine
        self._reference = reference
        self._verifier = SyncVerifier(dtype)
        self._max_adapters = max_adapters
        self._live: dict[str, LivePolicy] = {}
        """Served policies by model id, the least recently used first."""
        self._aliases: dict[str, str] = {}
        self._loads = itertools.count()
        self._served: np.ndarray | None = None
        """Log-probs of the probe under the adapter that was loaded last."""
        self._loading = asyncio.Lock()

    async def start(self) -> None:
        """Serves the base, as an adapter that changes nothing."""
        await self._deliver(BASE, None, None, pinned=True)

    def resolve(self, name: str | None) -> LivePolicy:
        """The model of that name or alias; the base for None. Raises UnknownPolicy naming what exists."""
        model = self._aliases.get(name, name) if name is not None else BASE
        found = self._live.pop(model, None)
        if found is None:
            raise UnknownPolicy(f"no model {name!r}; this service has {', '.join(self.names())}")
        self._live[model] = found  # the last one to be unloaded
        return found

    def names(self) -> list[str]:
        """Names that `resolve` knows: the base, the other models, the aliases."""
        return [policy.model for policy in self.models()] + sorted(self._aliases)

    def models(self) -> list[LivePolicy]:
        """The base first, then in the order in which they were loaded."""
        return sorted(self._live.values(), key=lambda live: live.number)

    def aliases(self) -> dict[str, LivePolicy]:
        """Alias -> its current policy."""
        return {alias: self._live[model] for alias, model in sorted(self._aliases.items())}

    def serves(self, source: AdapterSource) -> bool:
        """Whether these very weights are served under that name already."""
        live = self._live.get(source.model)
        if live is None:
            return False
        sha256 = source.sha256
        return live.source == str(source.directory) if sha256 is None else live.policy.sha256 == sha256

    async def load(self, source: AdapterSource, *, pinned: bool = False) -> tuple[LivePolicy, list[str]]:
        """Serves an adapter once it has proven itself; what it is, and which models went to make room.

        Raises ConfigError for what is no adapter of this base, WeightSyncMismatch where the engine computes
        something else, AdapterConflict where the name is taken by other weights or nothing can go. Nothing has
        changed then.
        """
        async with self._loading:
            if source.model in self._aliases:
                raise AdapterConflict(f"{source.model!r} is an alias here; give another `name`")
            known = self._live.get(source.model)
            gone = [] if known is not None else self._room()
            try:
                live = await self._deliver(source.model, source.directory, source.version, pinned=pinned)
            except PolyrayError:
                self._metrics.adapter("refused")
                raise
            self._metrics.adapter("loaded", live.difference)
            for model in gone:
                await self._forget(model)
            return live, gone

    async def unload(self, model: str) -> None:
        """Stop serving a model; running requests finish. Raises UnknownPolicy."""
        async with self._loading:
            if model not in self._live or model == BASE:
                raise UnknownPolicy(
                    f"no adapter {model!r} is loaded; there are {[name for name in self._live if name != BASE]}"
                )
            await self._forget(model)

    def point(self, alias: str, model: str) -> None:
        """Requests for `alias` get this model from now on."""
        self._aliases[alias] = model

    def drop_alias(self, alias: str) -> None:
        """The alias goes; unknown ones are ignored."""
        self._aliases.pop(alias, None)

    async def _deliver(
        self, model: str, directory: Path | None, version: int | None, *, pinned: bool
    ) -> LivePolicy:
        payload = await asyncio.to_thread(self._reference, directory, version or 0, self._served)
        payload = replace(payload, policy=replace(payload.policy, run=model))
        known = self._live.get(model)
        if known is not None and known.policy == payload.policy:
            return known
        ack = await self._engine.load(payload)
        try:
            proof = self._verifier.check(replace(ack, worker=model), payload)
        except PolyrayError:
            await self._restore(model, known)
            raise
        self._served = payload.probe.logprobs
        live = LivePolicy(
            model,
            payload.policy,
            "" if directory is None else str(directory),
            version,
            int(time.time()),
            proof.max_difference,
            pinned,
            next(self._loads),
        )
        self._live[model] = live
        return live

    async def _restore(self, model: str, known: LivePolicy | None) -> None:
        """Remove a version that was not proven; its predecessor is loaded again from its directory."""
        self._engine.forget(model)
        if known is not None:
            del self._live[model]
            await self._deliver(model, Path(known.source), known.version, pinned=known.pinned)

    async def _forget(self, model: str) -> None:
        self._live.pop(model, None)
        for alias in [alias for alias, target in self._aliases.items() if target == model]:
            del self._aliases[alias]
        self._verifier.forget(model)
        self._engine.forget(model)

    def _room(self) -> list[str]:
        """The models that have to go for one more: the one that was asked longest ago, if any."""
        others = [model for model in self._live if model != BASE]
        if len(others) < self._max_adapters:
            return []
        free = [
            model for model in others if not self._live[model].pinned and model not in self._aliases.values()
        ]
        if not free:
            raise AdapterConflict(
                f"max_adapters={self._max_adapters} are loaded, and all are configured or followed; unload one, or "
                "raise max_adapters"
            )
        return free[:1]
