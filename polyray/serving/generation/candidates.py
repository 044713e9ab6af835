"""POST /v1/candidates: sample, score, choose, store, answer; and scores that are asked for later.

ask --> sample m --> score? --> distances --> choose k of m --> store --> answer
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from polyray.config.evaluation import SelectorName
from polyray.config.generation import GenerationServeConfig
from polyray.data.selections.records import StoredRecord
from polyray.data.selections.store import SelectionStore
from polyray.errors import DataError, RewardError
from polyray.evaluation.candidates import DIVERSE, ChoiceRules, choose_candidates, mean_distance
from polyray.evaluation.records import SampleRecord
from polyray.rewards.base import GroupScores
from polyray.serving.generation.candidate_answers import Clock, as_answer, as_record, put_score
from polyray.serving.generation.candidates_wire import CandidatesAnswer, CandidatesRequest, SetDiversity
from polyray.serving.generation.errors import InvalidRequest
from polyray.serving.generation.openai_answers import Sampled
from polyray.serving.generation.request_parser import ParsedRequest, RequestParser, as_prompt
from polyray.serving.generation.sampling import Sampler
from polyray.serving.generation.scoring import CandidateScoring
from polyray.types import WRONG_CLASS, Prompt

NEED_SCORES: tuple[SelectorName, ...] = ("reward", "noisy_user")


class Delta(BaseModel):
    """A stream's event `delta`: text of one completion."""

    sample: int
    text: str


class Finish(BaseModel):
    """A stream's event `finish`: one completion is whole."""

    sample: int
    finish_reason: str


class CandidateMaker:
    """Maker of sets of candidates. Belongs to one event loop."""

    def __init__(
        self,
        config: GenerationServeConfig,
        asking: RequestParser,
        sampler: Sampler,
        scoring: CandidateScoring,
        store: SelectionStore,
    ) -> None:
        self._config = config
        self._asking = asking
        self._sampler = sampler
        self._scoring = scoring
        self._store = store

    def asked(self, request: CandidatesRequest) -> ParsedRequest:
        """Engine requests of the HTTP request. Raises InvalidRequest and UnknownPolicy."""
        selector = self._selector(request)
        if not self._scoring.has_reward and (request.score or selector in NEED_SCORES):
            what = "score" if request.score else "selector"
            raise InvalidRequest(
                f"{what}={request.score if request.score else selector!r} needs a reward, and this service has none; "
                "leave it out, or start the service with `reward`",
                what,
            )
        return self._asking.candidates(request)

    async def answer(self, request: CandidatesRequest, asked: ParsedRequest, owner: str) -> CandidatesAnswer:
        """The stored answer. Raises EngineBusy, DeadlineExceeded, RolloutError, RewardError, StoreUnavailable."""
        clock = Clock(time.perf_counter())
        with self._sampler.reserved(len(asked.requests)):
            sampled = await self._sampler.complete(asked.requests)
        return await self._finished(request, asked, owner, sampled, clock)

    async def events(
        self, request: CandidatesRequest, asked: ParsedRequest, owner: str
    ) -> AsyncGenerator[tuple[str, BaseModel, int], None]:
        """(event, data, tokens sampled so far) as they come, `candidates` last. Raises like `answer`."""
        clock = Clock(time.perf_counter())
        sampled = [Sampled() for _ in asked.requests]
        tokens = 0
        with self._sampler.reserved(len(asked.requests)):
            async for at, delta in self._sampler.stream(asked.requests):
                tokens += len(delta.token_ids)
                clock.first_token = clock.first_token or clock.now()
                sampled[at].add(delta)
                if delta.text:
                    yield "delta", Delta(sample=at, text=delta.text), tokens
                if delta.finish_reason is not None:
                    yield "finish", Finish(sample=at, finish_reason=delta.finish_reason), tokens
        yield "candidates", await self._finished(request, asked, owner, sampled, clock), tokens

    async def score(self, stored: StoredRecord) -> dict[str, Any]:
        """The answer of a stored set with scores, which are stored too. Raises InvalidRequest, StoreUnavailable."""
        answer = CandidatesAnswer.model_validate(stored.candidates.answer)
        if all(candidate.score is not None for candidate in answer.candidates):
            return dict(stored.candidates.answer)
        if not self._scoring.has_reward:
            raise InvalidRequest("this service has no reward to score with; start it with `reward`")
        request = CandidatesRequest.model_validate(stored.candidates.request)
        texts = [candidate.text for candidate in answer.candidates]
        scores = await self._scoring.scores(_scored_prompt(request), texts)
        for at, candidate in enumerate(answer.candidates):
            if candidate.score is None:  # a reward that fails now must not take what it gave earlier
                put_score(candidate, scores, at)
        changed = answer.model_dump(mode="json")
        await asyncio.to_thread(self._store.replace_answer, answer.id, changed)
        return changed

    def _selector(self, request: CandidatesRequest) -> SelectorName:
        return request.selector or self._config.selector

    def _wants_scores(self, request: CandidatesRequest) -> bool:
        if not self._scoring.has_reward or request.score is False:
            return self._scoring.has_reward and (
                self._selector(request) in NEED_SCORES or self._scoring.distances_need_scores
            )
        chooses = self._selector(request) == DIVERSE or request.num_samples > request.k
        needed = self._selector(request) in NEED_SCORES or self._scoring.distances_need_scores
        return bool(request.score) or chooses or needed

    async def _finished(
        self,
        request: CandidatesRequest,
        asked: ParsedRequest,
        owner: str,
        sampled: Sequence[Sampled],
        clock: Clock,
    ) -> CandidatesAnswer:
        clock.generated = clock.now()
        texts = [each.text for each in sampled]
        scores = None
        if self._wants_scores(request):
            scores = await self._scoring.scores(_scored_prompt(request), texts)
        clock.scored = clock.now()
        distances_GG = await self._scoring.distances(texts, scores)
        records = _records(_draw_key(request, asked), sampled, scores)
        try:
            chosen = choose_candidates(records, distances_GG, self._rules(request), _has_classes(scores))
        except DataError as error:  # the selector needs scores that the reward did not give
            reasons = [] if scores is None else [reason for reason in scores.errors if reason]
            raise RewardError("; ".join([str(error), *reasons[:1]])) from None
        diversity = SetDiversity(
            source=self._scoring.source,
            mean_distance=mean_distance(distances_GG[list(chosen.shown)][:, list(chosen.shown)]),
            clusters=len({number for number in chosen.clusters if number is not None}),
        )
        answer = as_answer(request, asked, sampled, scores, chosen, diversity, self._selector(request), clock)
        await asyncio.to_thread(self._store.add_candidates, as_record(request, asked, owner, answer))
        return answer

    def _rules(self, request: CandidatesRequest) -> ChoiceRules:
        return ChoiceRules(
            k=request.k,
            selector=self._selector(request),
            diversity_weight=request.diversity_weight,
            duplicate_distance=self._config.duplicate_distance,
            cluster_distance=self._config.cluster_distance,
        )


def _scored_prompt(request: CandidatesRequest) -> Prompt:
    """Prompt for the reward: with the reference and the metadata that verifiers compare with."""
    prompt = as_prompt(request.prompt, request.messages)
    return Prompt(
        prompt.prompt_id, prompt.text, request.reference, prompt.messages, metadata=request.metadata
    )


def _draw_key(request: CandidatesRequest, asked: ParsedRequest) -> str:
    """Seeds the random part of a pick: the request's seed, given or drawn, and its prompt."""
    return f"{asked.requests[0].seed}/{_scored_prompt(request).text}"


def _records(draw_key: str, sampled: Sequence[Sampled], scores: GroupScores | None) -> list[SampleRecord]:
    return [
        SampleRecord(
            task_id=draw_key,
            completion=each.text,
            sample_index=at,
            reward=math.nan if scores is None else float(scores.rewards_G[at]),
            class_id=WRONG_CLASS if scores is None else int(scores.classes_G[at]),
            num_tokens=len(each.token_ids),
            logprob=math.fsum(each.logprobs),
        )
        for at, each in enumerate(sampled)
    ]


def _has_classes(scores: GroupScores | None) -> bool:
    """Whether the reward said what kind each completion is; where it could not be asked, texts are compared."""
    return scores is not None and not bool(np.isnan(scores.rewards_G).all())
