"""The reward models of one replica: loaded together, checked by a canary, swapped as one.

    ReplicaModels.load(configuration) --canary--> ReplicaModels       one consistent set, never changed afterwards
    ServedModel.score(items, finish) --batcher, cache, thread--> what `finish` makes of the scores

Knows neither HTTP nor Serve's processes; app.py owns the current set and replaces it, requests in flight keep theirs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from polyray.config.service import ServiceSpec
from polyray.errors import RewardError
from polyray.rewards import RewardPlan
from polyray.rewards.base import Reward, Score, ScoreItem
from polyray.rewards.protocol import ModelInfo
from polyray.serving.reward.batching import BatchLimits, TokenBatcher, estimated_tokens
from polyray.serving.reward.metrics import RewardMetrics
from polyray.serving.reward.score_cache import ScoreCache

ResultT = TypeVar("ResultT")

CANARY = ScoreItem("What would make you smile today?", "A kind word from a friend, and a walk in the sun.")
CACHED_SCORES = 65_536
"""Scores kept for each model that is deterministic."""
CANARY_TOLERANCE = 1e-4
"""Tolerance of a score in [0, 1]: float32 sums differ by their batch, a broken model differs by more."""
CANARY_WAIT_S = 5.0
"""A model that is busy for longer is watched by its batches' own deadline."""
TOKENS_PER_ITEM = 16
"""Tokens per item beside those of its texts: a thousand empty texts are no empty batch."""


class RewardTimeout(RewardError):
    """A reward did not return in time, or a request's turn did not come."""


class UnknownModel(RewardError):
    """A request names a model that this service does not have."""


@dataclass(frozen=True, slots=True)
class Work:
    """Items of one caller that are scored together, and what becomes of their scores.

    Example:
        Work(items=(ScoreItem("p", "c"),), finish=lambda scores: scores, tokens=17)
    """

    items: Sequence[ScoreItem]
    finish: Callable[[list[Score]], Any]
    """Runs where the reward runs: beside the event loop unless the reward is inline."""
    tokens: int


@dataclass
class ServedModel:
    """One reward model with its queue. Belongs to one event loop once it scores."""

    id: str
    plan: RewardPlan
    reward: Reward
    spec: ServiceSpec
    timeout_s: float
    metrics: RewardMetrics
    canary: Score | None = None
    """Score of CANARY when the model was loaded; None if it is not asked."""
    cache: ScoreCache | None = None
    batcher: TokenBatcher[Work] = field(init=False)

    def __post_init__(self) -> None:
        self.batcher = TokenBatcher(self._score_batch, BatchLimits.of(self.spec))
        self._one_at_a_time = asyncio.Lock()  # the user's function may not be thread-safe
        self._stuck: asyncio.Future[Any] | None = None

    async def score(self, items: Sequence[ScoreItem], finish: Callable[[list[Score]], ResultT]) -> ResultT:
        """Score items and return `finish(scores)`. Raises RewardTimeout, and errors of reward and `finish`.

        Items over a whole batch's budget go in several batches, between those of other callers.
        """
        parts = list(self._parts(items))
        if len(parts) == 1:
            return await self.batcher.submit(Work(items, finish, parts[0].tokens), parts[0].tokens)
        answers = await asyncio.gather(*(self.batcher.submit(part, part.tokens) for part in parts))
        return await self.run(finish, [score for scores in answers for score in scores])

    async def run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """`function` alone among the calls of this model, beside the event loop unless the reward is inline."""
        if self.reward.inline:
            return function(*arguments)
        async with self._one_at_a_time:
            return await self._in_thread(function, *arguments)

    async def check_health(self) -> None:
        """Raises RewardError where a call does not return, or the canary's score is not what it was."""
        self._refuse_while_stuck()
        if self.canary is None:
            return
        try:
            async with asyncio.timeout(CANARY_WAIT_S):
                await self._one_at_a_time.acquire()
        except TimeoutError:
            return
        try:
            score = await self._in_thread(canary_score, self.reward)
        finally:
            self._one_at_a_time.release()
        if not same_score(score, self.canary):
            raise RewardError(
                f"{self.id}: the canary scored {self.canary.score} (class {self.canary.class_id}) when the model was "
                f"loaded and scores {score.score} (class {score.class_id}) now; the replica needs a restart"
            )

    def info(self) -> ModelInfo:
        """Entry of the model in GET /v1/models."""
        return ModelInfo(
            id=self.id,
            reward_model=self.reward.name,
            version=self.reward.version,
            score_range=self.reward.score_range,
            cached=self.cache is not None,
        )

    def _parts(self, items: Sequence[ScoreItem]) -> list[Work]:
        """The items in runs of at most a batch's tokens. A prompt counts once per run of equal ones."""
        parts: list[Work] = []
        start, tokens, prompt = 0, 0, None
        for at, item in enumerate(items):
            own = TOKENS_PER_ITEM + estimated_tokens(item.completion)
            cost = own if item.prompt == prompt else own + estimated_tokens(item.prompt)
            if at > start and tokens + cost > self.spec.max_batch_tokens:
                parts.append(Work(items[start:at], list, tokens))
                start, tokens, cost = at, 0, own + estimated_tokens(item.prompt)
            tokens, prompt = tokens + cost, item.prompt
        parts.append(Work(items[start:], list, tokens))
        return parts

    def set_gauges(self) -> None:
        """Set the gauge of waiting requests. Not only when a batch starts: behind one that hangs the queue grows
        unseen.
        """
        self.metrics.queued.set(self.batcher.queued, {"model": self.id})

    async def _score_batch(self, batch: Sequence[Work]) -> list[Any]:
        self.set_gauges()
        return await self.run(self._scored, batch)

    def _scored(self, batch: Sequence[Work]) -> list[Any]:
        """One result per caller; its own exception where its items, alone, make the reward raise."""
        started = time.perf_counter()
        items = [item for work in batch for item in work.items]
        try:
            scores = iter(self._scores_of(items))
        except Exception as error:
            return [error] if len(batch) == 1 else [self._scored([work])[0] for work in batch]
        results: list[Any] = []
        unscored = 0
        for work in batch:
            own = [next(scores) for _ in work.items]
            unscored += sum(score.score is None for score in own)
            try:
                results.append(work.finish(own))
            except Exception as error:  # one caller's texts must not take the batch's others down
                results.append(error)
        tokens = sum(work.tokens for work in batch)
        self.metrics.batch(self.id, len(items), tokens, time.perf_counter() - started, unscored)
        return results

    def _scores_of(self, items: Sequence[ScoreItem]) -> Sequence[Score]:
        if self.cache is None:
            return _checked(self.reward, self.reward.score(items), len(items))
        cached = self.cache.score(self.reward, items)
        self.metrics.cache(self.id, cached.hits, cached.misses)
        return cached.scores

    async def _in_thread(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """A call that did not return is waited for: it must not run twice at a time, and callers that are refused
        at once would only come back at once. Meanwhile the replica is unhealthy, and Serve replaces it."""
        if self._is_stuck():
            await asyncio.wait({self._stuck}, timeout=self.timeout_s)  # type: ignore[type-var]
            self._refuse_while_stuck()
        call = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
        done, _ = await asyncio.wait({call}, timeout=self.timeout_s)
        if done:
            return call.result()
        call.add_done_callback(lambda late: late.exception())  # its caller is gone
        self._stuck = call
        raise RewardTimeout(
            f"{self.reward.name} did not return within {self.timeout_s:g} s; make it faster, "
            "or raise reward.service.request_timeout_s or lower max_batch_size"
        )

    def _is_stuck(self) -> bool:
        return self._stuck is not None and not self._stuck.done()

    def _refuse_while_stuck(self) -> None:
        if self._is_stuck():
            raise RewardTimeout(f"{self.reward.name} has not returned after {self.timeout_s:g} s")


@dataclass(frozen=True)
class ReplicaModels:
    """All models of a replica, swapped as one."""

    by_id: Mapping[str, ServedModel]
    default: ServedModel
    revision: str

    def find(self, name: str | None) -> ServedModel | None:
        """The model of that name, the default for None, None where there is none."""
        return self.default if name is None else self.by_id.get(name)

    async def check_health(self) -> None:
        """Raises RewardError where a model is not well."""
        for model in self.by_id.values():
            await model.check_health()


def load_models(
    plans: Mapping[str, RewardPlan],
    *,
    spec: ServiceSpec,
    revision: str,
    timeout_s: float,
    metrics: RewardMetrics,
    device: str,
    previous: ReplicaModels | None = None,
) -> ReplicaModels:
    """Builds every model and scores its canary; blocks, so it runs beside the event loop.

    Models run on `device`. Score caches of `previous` are kept: their keys hold the version. Raises what
    the rewards raise where they cannot be built, RewardError for a canary without a usable score.
    """
    models = {
        name: _load(name, plan, spec=spec, timeout_s=timeout_s, metrics=metrics, device=device)
        for name, plan in plans.items()
    }
    for name, model in models.items():
        former = previous.by_id.get(name) if previous is not None else None
        if model.cache is not None and former is not None and former.cache is not None:
            model.cache = former.cache
    return ReplicaModels(models, next(iter(models.values())), revision)


def _load(
    name: str,
    plan: RewardPlan,
    *,
    spec: ServiceSpec,
    timeout_s: float,
    metrics: RewardMetrics,
    device: str,
) -> ServedModel:
    reward = plan.build(device)
    model = ServedModel(name, plan, reward, spec, timeout_s, metrics)
    if reward.deterministic:  # others may cost money, or answer differently
        model.canary = canary_score(reward)
        if not same_score(model.canary, canary_score(reward)):
            raise RewardError(f"models.{name}: {reward.name} gives one text two scores; it cannot be served")
        if not reward.inline:  # an inline reward takes less time than the cache
            model.cache = ScoreCache(CACHED_SCORES)
    return model


def canary_score(reward: Reward) -> Score:
    """The score of CANARY, past every cache of the service. Raises RewardError where it is not finite."""
    (score,) = _checked(reward, reward.score([CANARY]), 1)
    if score.score is not None and not math.isfinite(score.score):
        raise RewardError(f"{reward.name} scores the canary {score.score}; the model is broken")
    return score


def same_score(first: Score, second: Score) -> bool:
    """Equal up to the rounding of a batch; unscored equals unscored (a verifier cannot judge the canary)."""
    if first.score is None or second.score is None:
        return first.score is second.score
    return first.class_id == second.class_id and abs(first.score - second.score) <= CANARY_TOLERANCE


def _checked(reward: Reward, scores: Sequence[Score], count: int) -> Sequence[Score]:
    if len(scores) != count:
        raise RewardError(f"{reward.name} gave {len(scores)} scores for {count} items; it needs one for each")
    return scores
