"""Adapter sync: keeps the served adapters up to date with requests and followed runs.

The store remembers what was asked for over /v1/adapters, so that a restart serves it again and every replica serves
the same. One look at it, and at the directories of followed runs, every `follow_interval_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from polyray.config.generation import AdapterSpec
from polyray.errors import PolyrayError
from polyray.serving.generation.errors import AdapterConflict, UnknownPolicy
from polyray.serving.generation.policies import LivePolicies, LivePolicy
from polyray.serving.generation.sources import (
    AdapterSource,
    aliases_of,
    check_adapter,
    check_place,
    followed,
    key_of,
    place_of,
    source_of,
)

logger = logging.getLogger(__name__)


class WantedAdapters(Protocol):
    """Store of the adapters requested over /v1/adapters; implemented by SelectionStore. Blocks."""

    def adapters(self) -> Mapping[str, Mapping[str, Any]]:
        """Key -> AdapterSpec as JSON."""
        ...

    def add_adapter(self, name: str, spec: Mapping[str, Any]) -> None:
        """One more, or another spec under the same key."""
        ...

    def remove_adapter(self, name: str) -> object:
        """One less; an unknown key is ignored."""
        ...


class ServedAdapters:
    """Loads and unloads on request, and follows. One change at a time."""

    def __init__(
        self,
        policies: LivePolicies,
        wanted: WantedAdapters,
        configured: tuple[AdapterSpec, ...],
        roots: tuple[str, ...],
        max_rank: int,
    ) -> None:
        self._policies = policies
        self._wanted = wanted
        self._configured = {key_of(spec): spec for spec in configured}
        self._roots = roots
        self._max_rank = max_rank
        self._specs: dict[str, AdapterSpec] = {}
        """Served adapters, by key."""
        self._changing = asyncio.Lock()
        self.troubles: dict[str, str] = {}
        """Key -> why it is not served, or not its newest version."""

    @property
    def specs(self) -> dict[str, AdapterSpec]:
        """Served adapters, by key."""
        return dict(self._specs)

    async def start(self) -> None:
        """Loads what is configured, which must work, and what was asked for earlier, which need not any more."""
        for spec in self._configured.values():
            await self._add(spec)
        await self.look()

    async def add(self, spec: AdapterSpec) -> tuple[str, list[LivePolicy]]:
        """Serves what `spec` names, from now on; its key and the models. A followed run may have none yet.

        Raises InvalidRequest, ConfigError, WeightSyncError and AdapterConflict; nothing has changed then.
        """
        async with self._changing:
            key, models = await self._add(spec)
            if key not in self._configured:
                asked = spec.model_dump(mode="json", exclude_none=True)
                await asyncio.to_thread(self._wanted.add_adapter, key, asked)
            return key, models

    async def remove(self, key: str) -> None:
        """Serves it no more. Raises UnknownPolicy, and AdapterConflict for one of the configuration."""
        async with self._changing:
            if key in self._configured:
                raise AdapterConflict(f"{key!r} is in the configuration; take it out there and start again")
            try:
                await self._remove(key)
            except UnknownPolicy:
                if key not in await asyncio.to_thread(self._wanted.adapters):
                    raise
            await asyncio.to_thread(self._wanted.remove_adapter, key)

    async def catch_up(self, name: str | None) -> None:
        """Looks once where `name` is unknown here: another replica may have been asked to serve it."""
        known = (*self._specs, *self.troubles, *self._policies.names())
        if name is not None and name not in known:
            await self.look()

    async def look(self) -> None:
        """Look once: load wanted adapters, unload unwanted ones, follow new versions."""
        async with self._changing:
            stored = await asyncio.to_thread(self._wanted.adapters)
            for key in [key for key in self._specs if key not in stored and key not in self._configured]:
                await self._quietly(key, self._remove(key))
            for key, asked in stored.items():
                if key not in self._specs:
                    await self._quietly(key, self._add_asked(asked))
            for key, spec in list(self._specs.items()):
                if spec.follow is not None:
                    await self._quietly(key, self._follow(spec))

    async def keep_looking(self, interval_s: float) -> None:
        """Look every `interval_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look()
            except PolyrayError as error:
                logger.error("adapters: %s", error)
            except Exception:  # one look that fails must not be the last one
                logger.exception("adapters")

    async def _quietly(self, key: str, work: Awaitable[object]) -> None:
        try:
            await work
        except UnknownPolicy:
            self.troubles.pop(key, None)  # it went meanwhile
        except (PolyrayError, OSError, ValueError) as error:
            if self.troubles.get(key) != str(error):
                logger.error("adapter %s: %s", key, error)
            self.troubles[key] = str(error)
        else:
            self.troubles.pop(key, None)

    async def _add(self, spec: AdapterSpec) -> tuple[str, list[LivePolicy]]:
        check_place(place_of(spec), self._roots)
        key = key_of(spec)
        known = self._specs.get(key)
        if known is not None and known != spec:
            raise AdapterConflict(
                f"{key!r} is {known.model_dump(exclude_none=True)} already; unload it first, or give another `name`"
            )
        if spec.follow is not None:
            models = await self._follow(spec)
        else:
            models = [await self._load(source_of(spec), pinned=key in self._configured)]
        self._specs[key] = spec
        self.troubles.pop(key, None)
        return key, models

    async def _add_asked(self, asked: Mapping[str, Any]) -> None:
        await self._add(AdapterSpec.model_validate(asked))

    async def _remove(self, key: str) -> None:
        spec = self._specs.pop(key, None)
        self.troubles.pop(key, None)
        if spec is None or spec.follow is None:  # without a spec: one version of a followed run
            await self._policies.unload(key)
            return
        for alias in aliases_of(spec):
            self._policies.drop_alias(alias)
        for live in self._policies.models():
            if live.version is not None and live.model == f"{key}-v{live.version}":
                await self._policies.unload(live.model)

    async def _follow(self, spec: AdapterSpec) -> list[LivePolicy]:
        """The newest and the best version, under their names; versions before stay while there is room."""
        state = await asyncio.to_thread(followed, spec)
        latest, best = aliases_of(spec)
        models = []
        for alias, source in ((best, state.best), (latest, state.latest)):
            if source is not None:
                live = await self._load(source, pinned=False)
                self._policies.point(alias, live.model)
                models.append(live)
        return models

    async def _load(self, source: AdapterSource, pinned: bool) -> LivePolicy:
        if await asyncio.to_thread(self._policies.serves, source):
            return self._policies.resolve(source.model)
        check_adapter(source, self._max_rank)
        live, gone = await self._policies.load(source, pinned=pinned)
        for model in gone:
            if self._specs.pop(model, None) is not None:
                await asyncio.to_thread(self._wanted.remove_adapter, model)
        return live
