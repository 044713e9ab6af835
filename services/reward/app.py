"""The reward service as a Ray Serve deployment: groups over a handle, items over HTTP, one Reward for both.

    RewardClient --handle--> score_groups --batched across callers--> polyray.rewards.groups.score_groups
    anyone --HTTP--> POST /v1/score --> polyray.rewards.protocol.answer_request

RewardService is a plain class that needs no Ray, BatchingRewardService what is deployed (by run.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from polyray.config.service import ServiceSpec
from polyray.errors import RewardError
from polyray.rewards import RewardPlan
from polyray.rewards.base import GroupScores, Reward
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.protocol import ScoreRequest, ScoreResponse, answer_request
from polyray.types import Prompt
from services.auth import BearerTokenMiddleware
from services.body_limit import BodyLimitMiddleware
from services.http_errors import error_response, install_error_handlers

ANSWER_BEFORE_CALLER = 0.9
"""The service gives up after this share of request_timeout_s: the caller reads why instead of timing out."""
QUEUED_BATCHES_PER_CALLER = 64

ResultT = TypeVar("ResultT")


class RewardService:
    """One replica."""

    def __init__(
        self,
        plan: RewardPlan,
        token: SecretStr | None = None,
    ) -> None:
        self.reward: Reward = plan.build()
        spec = plan.reward.service
        self._token = token
        self._timeout_s = spec.request_timeout_s * ANSWER_BEFORE_CALLER
        self._one_at_a_time = asyncio.Lock()  # nobody promised that the user's function is thread-safe
        self._stuck_s: float | None = None

    async def score_batch(self, requests: list[GroupToScore]) -> list[GroupScores]:
        """Scores many groups with one call of the reward; all unscored where that takes too long."""
        try:
            return await self._run(score_groups, self.reward, requests)
        except RewardError as error:
            return [GroupScores.unscored(len(request.texts), str(error)) for request in requests]

    async def score_items(self, request: ScoreRequest) -> ScoreResponse:
        """What POST /v1/score answers. Raises RewardError where the reward takes too long."""
        return await self._run(answer_request, self.reward, request)

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises: nothing else ends a call that does not return."""
        if self._stuck_s is not None:
            raise RewardError(f"{self.reward.name} has not returned after {self._stuck_s:g} s")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_http_app(self, self._token)

    async def _run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        if self.reward.inline:
            return function(*arguments)
        try:
            async with self._one_at_a_time:
                return await asyncio.wait_for(asyncio.to_thread(function, *arguments), self._timeout_s)
        except TimeoutError:
            self._stuck_s = self._timeout_s
            raise RewardError(
                f"{self.reward.name} did not return within {self._timeout_s:g} s; make it faster, "
                "or raise reward.service.request_timeout_s or lower max_batch_size"
            ) from None


class BatchingRewardService(RewardService):
    """What is deployed: groups of concurrent callers are scored together; works in a replica only."""

    def __init__(
        self,
        plan: RewardPlan,
        token: SecretStr | None,
    ) -> None:
        super().__init__(plan, token)
        spec = plan.reward.service
        self._batched = serve.batch(
            max_batch_size=spec.max_batch_size, batch_wait_timeout_s=spec.batch_wait_timeout_s
        )(self.score_batch)

    async def score_group(
        self, prompt: Prompt, texts: list[str], want_distances: bool = False
    ) -> GroupScores:
        """One group."""
        return await self._batched(GroupToScore(prompt, tuple(texts), want_distances))

    async def score_groups(self, requests: list[GroupToScore]) -> list[GroupScores]:
        """Many groups in one call: what RewardClient uses."""
        return await asyncio.gather(*(self._batched(request) for request in requests))


def build_http_app(service: RewardService, token: SecretStr | None) -> FastAPI:
    """The routes of one replica; needs no Ray."""
    app = FastAPI(title="polyray reward service", redirect_slashes=False)
    install_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(BearerTokenMiddleware, token=token)

    @app.post("/v1/score")
    async def score(request: ScoreRequest) -> JSONResponse:
        response = await service.score_items(request)
        answer = response.model_dump(by_alias=True)
        if response.distances is None:
            del answer["distances"]
        return JSONResponse(answer)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        try:
            await service.check_health()
        except RewardError as error:
            return error_response(503, str(error))
        return JSONResponse({"status": "ready"})

    @app.get("/v1/info")
    async def info() -> dict[str, str]:
        return {"reward_model": service.reward.name, "version": service.reward.version}

    return app


def build_reward_app(plan: RewardPlan, token: SecretStr | None = None) -> Application:
    """The deployment, bound."""
    spec: ServiceSpec = plan.reward.service
    deployment = serve.deployment(serve.ingress(None)(BatchingRewardService)).options(
        name="reward",
        num_replicas=spec.num_replicas,
        ray_actor_options={"num_cpus": spec.num_cpus},
        max_ongoing_requests=2 * spec.max_batch_size,
        max_queued_requests=QUEUED_BATCHES_PER_CALLER * spec.max_batch_size,
        health_check_period_s=2.0,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=2.0,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LoggingConfig(
            log_level="WARNING", enable_access_log=False
        ),  # a line per call is measurable
    )
    return deployment.bind(plan, token)
