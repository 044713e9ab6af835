"""Answers and records of /v1/candidates, from samples, scores and the chosen set. Plain functions."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from polyray.data.selections.records import CandidatesRecord
from polyray.evaluation.candidates import ChosenSet
from polyray.rewards.base import GroupScores
from polyray.serving.generation.candidates_wire import (
    Candidate,
    CandidatesAnswer,
    CandidatesRequest,
    Collapsed,
    ServedPolicy,
    SetDiversity,
    Timings,
)
from polyray.serving.generation.openai_answers import Sampled, usage_of
from polyray.serving.generation.request_parser import ParsedRequest


@dataclass(slots=True)
class Clock:
    """Times of a request's stages, in seconds since it came."""

    started: float
    first_token: float | None = None
    generated: float = 0.0
    scored: float = 0.0

    def now(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started


def as_answer(
    request: CandidatesRequest,
    asked: ParsedRequest,
    sampled: Sequence[Sampled],
    scores: GroupScores | None,
    chosen: ChosenSet,
    diversity: SetDiversity,
    selector: str,
    clock: Clock,
) -> CandidatesAnswer:
    """Build the answer to `request` from its chosen samples."""
    live = asked.policy
    total = clock.now()
    candidates = []
    for index, at in enumerate(chosen.shown):
        candidate = Candidate(
            index=index,
            sample=at,
            text=sampled[at].text,
            logprob=math.fsum(sampled[at].logprobs),
            num_tokens=len(sampled[at].token_ids),
            finish_reason=sampled[at].finish_reason,  # type: ignore[arg-type]
            cluster=chosen.clusters[index],
            count=len(chosen.stands_for[at]),
            seed=asked.requests[at].seed,
        )
        if scores is not None:
            put_score(candidate, scores, at)
        candidates.append(candidate)
    return CandidatesAnswer(
        id=f"cand-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=request.model or live.model,
        policy=ServedPolicy(model=live.model, version=live.version, sha256=live.policy.sha256),
        selector=selector,
        selected_index=chosen.shown.index(chosen.selected),
        candidates=candidates,
        collapsed=_collapsed(chosen, sampled),
        diversity=diversity,
        usage=usage_of(asked.prompt_tokens, sampled),
        timings=Timings(
            generate_s=clock.generated,
            first_token_s=clock.first_token,
            score_s=clock.scored - clock.generated,
            choose_s=total - clock.scored,
            total_s=total,
        ),
    )


def _collapsed(chosen: ChosenSet, sampled: Sequence[Sampled]) -> list[Collapsed]:
    index_of = {at: index for index, at in enumerate(chosen.shown)}
    return [
        Collapsed(sample=at, text=sampled[at].text, candidate=index_of.get(representative))
        for representative, members in chosen.stands_for.items()
        for at in members[1:]
    ]


def put_score(candidate: Candidate, scores: GroupScores, at: int) -> None:
    """Writes the score of sample `at` into the candidate that shows it."""
    reward = float(scores.rewards_G[at])
    candidate.score = None if math.isnan(reward) else reward
    candidate.components = {
        name: values[at] for name, values in scores.components.items() if not math.isnan(values[at])
    }
    candidate.score_error = scores.errors[at]


def as_record(
    request: CandidatesRequest, asked: ParsedRequest, owner: str, answer: CandidatesAnswer
) -> CandidatesRecord:
    """Record of a request and its answer, for the store."""
    return CandidatesRecord(
        id=answer.id,
        created=time.time(),
        owner=owner,
        model=asked.policy.model,
        policy_sha256=asked.policy.policy.sha256,
        request=request.model_dump(mode="json"),
        answer=answer.model_dump(mode="json"),
    )
