"""Scoring of groups for the training loop: with retries, and a check of every answer.

    score_group --pending--> one call per tick and replica --retries--> checked_group_scores --> GroupScores

Two ways to call: the handle of a deployment of ours (polyray/serving/reward, known by its application name
only), or, for
`reward.type: http` alone, RemoteCall: a service elsewhere over HTTP (rewards/remote.py), without any deployment.

Groups that wait at the same time travel in one call: a call costs milliseconds, a verifier microseconds.
A group that cannot be scored comes back unscored with the reason, it never raises: the caller counts it and
stops the run above a share. Back pressure, dead replicas and timeouts are retried, answers of the reward are not.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from polyray.config.service import ServiceSpec
from polyray.errors import PolyrayError, RewardError
from polyray.retry import pause_s
from polyray.rewards import RewardPlan
from polyray.rewards.base import GroupScores
from polyray.rewards.groups import GroupToScore, checked_group_scores, score_groups
from polyray.rewards.remote import HttpReward
from polyray.types import Prompt

logger = logging.getLogger(__name__)

CALLS_PER_REPLICA = 2
"""Calls in flight per replica: one being scored, one waiting behind it."""

ScoreCall = Callable[[list[GroupToScore]], Awaitable[object]]


class RemoteCall:
    """A ScoreCall to a service on the network; retries, deadline and circuit breaker are those of its client."""

    def __init__(self, plan: RewardPlan) -> None:
        self._plan = plan
        self._reward: HttpReward | None = None
        self._building = asyncio.Lock()

    async def __call__(self, requests: list[GroupToScore]) -> list[GroupScores]:
        """Waits while the circuit breaker is open: a group that comes later is worth more than one that is lost."""
        try:
            async with self._building:
                if self._reward is None:
                    self._reward = await asyncio.to_thread(build_remote, self._plan)
            await asyncio.sleep(self._reward.client.wait_s)
            return await asyncio.to_thread(score_groups, self._reward, requests)
        except PolyrayError as error:
            return _unscored(requests, str(error))


def build_remote(plan: RewardPlan) -> HttpReward:
    """The reward of a plan that is remote. Raises ConfigError where the token's variable is not set here."""
    reward = plan.build()
    if not isinstance(reward, HttpReward):
        raise RewardError(f"{reward.name} is not a remote reward; it needs a deployment")
    return reward


class RewardClient:
    """Belongs to one event loop; any number of concurrent `score_group` calls."""

    def __init__(self, app_name: str, spec: ServiceSpec, call: ScoreCall | None = None) -> None:
        """`app_name` is that of polyray.serving.reward.run; `call` takes the place of its handle."""
        self._app_name = app_name
        self._spec = spec
        self._call = call or self._call_handle
        self._handle: Any = None
        self._pending: list[tuple[GroupToScore, asyncio.Future[GroupScores]]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._trouble: str | None = None

    async def score_group(
        self, prompt: Prompt, texts: Sequence[str], want_distances: bool = False
    ) -> GroupScores:
        """The scores of one group; unscored, with the reason, after `max_attempts` tries or for garbage."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[GroupScores] = loop.create_future()
        self._pending.append((GroupToScore(prompt, tuple(texts), want_distances), future))
        if len(self._pending) == 1:
            loop.call_soon(self._send)  # after everything that is ready now, so that those groups join
        return await future

    def take_trouble(self) -> str | None:
        """The newest reason for another try since this was asked last; None: every first try was answered."""
        trouble, self._trouble = self._trouble, None
        return trouble

    def _send(self) -> None:
        """Spreads what is pending over the replicas; what is left goes when a call returns."""
        share = math.ceil(len(self._pending) / self._spec.num_replicas)
        size = min(share, self._spec.max_batch_size)
        while self._pending and len(self._calls) < CALLS_PER_REPLICA * self._spec.num_replicas:
            part, self._pending = self._pending[:size], self._pending[size:]
            task = asyncio.create_task(self._score(part))
            self._calls.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._send()

    async def _score(self, part: list[tuple[GroupToScore, asyncio.Future[GroupScores]]]) -> None:
        scores = await self._score_with_retries([request for request, _ in part])
        for (_, future), group_scores in zip(part, scores, strict=True):
            if not future.done():  # its caller may have given up
                future.set_result(group_scores)

    async def _score_with_retries(self, requests: list[GroupToScore]) -> list[GroupScores]:
        reason = ""
        for attempt in range(self._spec.max_attempts):
            if attempt:
                await asyncio.sleep(pause_s(attempt))
            try:
                answers = await asyncio.wait_for(self._call(requests), self._spec.request_timeout_s)
                return _checked(answers, requests)
            except RayTaskError as error:  # the service's own defect: it would fail again
                return _unscored(requests, f"the reward service failed: {error.cause!r}")
            except TimeoutError:
                reason = f"no answer within request_timeout_s={self._spec.request_timeout_s:g}"
            except (RayError, RayServeException) as error:
                reason = f"{type(error).__name__}: {error}"
                self._handle = None  # the application may have been deployed anew
            self._trouble = reason.splitlines()[0]
            logger.warning("reward service %s, try %d: %s", self._app_name, attempt + 1, reason)
        tries = f"{self._spec.max_attempts} tries"
        return _unscored(requests, f"no scores from {self._app_name} in {tries}; the last: {reason}")

    async def _call_handle(self, requests: list[GroupToScore]) -> object:
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_app_handle, self._app_name)
        response = self._handle.score_groups.remote(requests)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


def _checked(answers: object, requests: list[GroupToScore]) -> list[GroupScores]:
    """Garbage costs the groups it was answered for, with the reason, and no others."""
    if not isinstance(answers, list) or len(answers) != len(requests):
        came = f"{len(answers)} groups" if isinstance(answers, list) else f"a {type(answers).__name__}"
        return _unscored(requests, f"the reward service answered {came} for {len(requests)} groups")
    checked: list[GroupScores] = []
    for answer, request in zip(answers, requests, strict=True):
        try:
            checked.append(checked_group_scores(answer, len(request.texts), request.want_distances))
        except RewardError as error:
            checked.append(GroupScores.unscored(len(request.texts), str(error)))
    return checked


def _unscored(requests: list[GroupToScore], reason: str) -> list[GroupScores]:
    return [GroupScores.unscored(len(request.texts), reason) for request in requests]
