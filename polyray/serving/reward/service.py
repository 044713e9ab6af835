"""One replica of the reward service: its models, and the answers of its routes and handle methods.

A plain class that needs no Ray's processes; app.py deploys it, routes.py puts HTTP around it. A new configuration is
loaded beside the old one, checked by a canary and swapped in. One that cannot be loaded is refused, and the old one
still serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from polyray.config.service import ServiceSpec
from polyray.errors import PolyrayError, RewardError
from polyray.rewards import RewardPlan
from polyray.rewards.base import GroupScores, ScoreItem
from polyray.rewards.groups import GroupToScore, group_scores
from polyray.rewards.protocol import (
    ModelInfo,
    ScoreRequest,
    ScoreResponse,
    ServiceInfo,
    answer_scores,
)
from polyray.serving.gauges import keep_set
from polyray.serving.replica_log import log_as_replica
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.device import replica_device
from polyray.serving.reward.metrics import RewardMetrics
from polyray.serving.reward.models import ReplicaModels, RewardTimeout, ServedModel, UnknownModel, load_models
from polyray.types import Prompt

logger = logging.getLogger(__name__)

ANSWER_BEFORE_CALLER = 0.9
"""The service gives up after this share of request_timeout_s: the caller reads why instead of timing out."""


class RewardService:
    """One replica."""

    def __init__(self, spec: ServiceSpec, token: SecretStr | None = None) -> None:
        """Serves nothing until `reconfigure`, or `load`."""
        log_as_replica()
        self._spec = spec
        self.token = token
        self._timeout_s = spec.request_timeout_s * ANSWER_BEFORE_CALLER
        self.metrics = RewardMetrics()
        self._models: ReplicaModels | None = None
        self._wanted: ReplicaConfiguration | None = None
        self._loading = asyncio.Lock()
        self._reload: asyncio.Task[None] | None = None
        self._refused: tuple[str, str] | None = None
        """Revision of the last configuration that was refused, and why."""
        self._serving: Mapping[str, Any] | None = None
        """The configuration of the models."""
        self._gauges: asyncio.Task[None] | None = None
        """Ends with the replica's event loop."""

    @classmethod
    def serving(cls, plan: RewardPlan, token: SecretStr | None = None) -> RewardService:
        """One model, loaded."""
        service = cls(plan.reward.service, token)
        service.load(ReplicaConfiguration.of(plan))
        return service

    @property
    def models(self) -> ReplicaModels:
        """Models served now; a request takes them once and keeps them."""
        if self._models is None:
            raise RewardError("this replica has no models yet; call reconfigure")
        return self._models

    def load(self, configuration: ReplicaConfiguration) -> None:
        """Builds and swaps in; blocks. Raises what the rewards raise, and ResourceError where the replica was to have
        a GPU and sees none; changes nothing then."""
        self._models = self._built(configuration)

    def _built(self, configuration: ReplicaConfiguration) -> ReplicaModels:
        return load_models(
            configuration.plans,
            spec=self._spec,
            revision=configuration.revision,
            timeout_s=self._timeout_s,
            metrics=self.metrics,
            device=replica_device(self._spec),
            previous=self._models,
        )

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's hook for a new `user_config`.

        The first one is loaded before the replica is ready, and its errors end the start. A later one is loaded in
        the background: Serve would take a replica that raises here away, and the old models with it.
        """
        if self._models is None:
            await asyncio.to_thread(self.load, ReplicaConfiguration.from_json(user_config))
            self._serving = user_config
            self._gauges = asyncio.create_task(keep_set(self._set_gauges))
            return
        try:
            self._wanted = ReplicaConfiguration.from_json(user_config)
        except PolyrayError as error:
            self._refuse(error, str(user_config.get("revision", "")))
            return
        if user_config != self._serving:  # the same again after one that was refused
            self._reload = asyncio.get_running_loop().create_task(
                self._load_wanted(self._wanted, user_config)
            )

    async def score_group(
        self, prompt: Prompt, texts: list[str], want_distances: bool = False, model: str | None = None
    ) -> GroupScores:
        """One group."""
        return (await self.score_groups([GroupToScore(prompt, tuple(texts), want_distances)], model))[0]

    async def score_groups(self, requests: list[GroupToScore], model: str | None = None) -> list[GroupScores]:
        """Many groups in one call: what RewardClient uses. All unscored where the reward takes too long."""
        served = self.find(model)
        return await asyncio.gather(*(self._score_group(served, request) for request in requests))

    async def score_request(self, request: ScoreRequest) -> ScoreResponse:
        """Answer of POST /v1/score. Raises UnknownModel, ServiceOverloaded and RewardTimeout."""
        model = self.find(request.model)
        model.batcher.check_room()
        items = [item.as_item() for item in request.items]
        async with _Deadline(self._timeout_s):
            return await model.score(
                items, lambda scores: answer_scores(model.reward, request, items, scores)
            )

    def find(self, model: str | None) -> ServedModel:
        """The served model of that name, the default for None. Raises UnknownModel."""
        models = self.models
        found = models.find(model)
        if found is None:
            raise UnknownModel(f"no model {model!r}; this service has {', '.join(models.by_id)}")
        return found

    def model_infos(self) -> list[ModelInfo]:
        """Every served model, the default first."""
        return [model.info() for model in self.models.by_id.values()]

    async def info(self) -> ServiceInfo:
        """Answer of GET /v1/info."""
        models = self.models
        return ServiceInfo(
            reward_model=models.default.reward.name,
            version=models.default.reward.version,
            revision=models.revision,
            refused_revision=None if self._refused is None else self._refused[0],
            reload_error=None if self._refused is None else self._refused[1],
            models=self.model_infos(),
        )

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises: nothing else ends a call that does not return."""
        await self.models.check_health()

    async def _score_group(self, model: ServedModel, request: GroupToScore) -> GroupScores:
        items = [ScoreItem.of(request.prompt, text) for text in request.texts]
        try:
            return await model.score(
                items, lambda scores: group_scores(model.reward, items, scores, request.want_distances)
            )
        except RewardError as error:
            return GroupScores.unscored(len(items), str(error))

    async def _load_wanted(self, configuration: ReplicaConfiguration, user_config: Mapping[str, Any]) -> None:
        async with self._loading:
            if configuration is not self._wanted:
                return  # a newer one waits already
            try:
                models = await asyncio.to_thread(self._built, configuration)
            except Exception as error:  # the old models still serve after any error of a new reward's code
                self._refuse(error, configuration.revision)
                return
            if configuration is not self._wanted:
                return  # taken back while it was loaded
            self._models, self._serving = models, user_config
        self._refused = None
        self.metrics.reloads.inc(1, {"outcome": "loaded"})

    def _set_gauges(self) -> None:
        for model in self.models.by_id.values():
            model.set_gauges()

    def _refuse(self, error: Exception, revision: str) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._refused = revision, reason
        self.metrics.reloads.inc(1, {"outcome": "failed"})
        logger.error("the new configuration is refused, the old one still serves: %s", reason)


class _Deadline:
    """asyncio.timeout with an error that callers can read."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise RewardTimeout(
                f"no answer within {self._seconds:g} s: the queue is long or the reward slow; send fewer items, add "
                "replicas, or raise reward.service.request_timeout_s"
            ) from None
