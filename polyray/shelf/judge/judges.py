"""The three judges behind one protocol: an item in, a Judgement out.

    PairwiseJudge   both orders of a pair; the verdict is what both agree on, else a tie
    RubricJudge     a score per criterion, their mean as quality in [0, 1]
    ClusterJudge    one call groups all candidates by strategy, garbage apart (Poly-EPO's diversity, arXiv 2604.17654)

An answer that cannot be used is asked for again, with what was wrong with it; after the last try the item is
unjudged. Errors that concern the whole job (budget, key, model) pass through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from polyray.config.judge import JudgeMode, JudgeSpec
from polyray.shelf.judge.answers import InvalidAnswer, classes_of, parse_answer, reasoning_of
from polyray.shelf.judge.client import Answered, JudgeClient
from polyray.shelf.judge.items import (
    INVALID_ANSWER,
    NO_ANSWER,
    REFUSED,
    ClusterItem,
    JudgeItem,
    Judgement,
    PairItem,
    RubricItem,
    Side,
    Usage,
)
from polyray.shelf.judge.providers import ChatRequest, NoAnswer, Refused
from polyray.shelf.judge.questions import (
    Question,
    candidate_names,
    cluster_question,
    pair_question,
    rubric_question,
)

ItemT_contra = TypeVar("ItemT_contra", bound=JudgeItem, contravariant=True)


class Judge(Protocol[ItemT_contra]):
    """Judges one kind of item."""

    mode: JudgeMode

    def questions(self, item: ItemT_contra, spec: JudgeSpec) -> list[Question]:
        """Questions about an item: one, or one per order of a pair."""
        ...

    def result(self, item: ItemT_contra, answers: list[dict[str, Any]], spec: JudgeSpec) -> dict[str, Any]:
        """`Judgement.result` from one validated answer per question."""
        ...


class PairwiseJudge:
    """Compare two answers in both orders, and name the better one."""

    mode: JudgeMode = "pairwise"

    def questions(self, item: PairItem, spec: JudgeSpec) -> list[Question]:
        """See `Judge.questions`."""
        return [pair_question(item, spec, swapped=False), pair_question(item, spec, swapped=True)]

    def result(self, item: PairItem, answers: list[dict[str, Any]], spec: JudgeSpec) -> dict[str, Any]:
        """See `Judge.result`."""
        orders: list[Side] = [_side(answer["overall"], swapped=bool(n)) for n, answer in enumerate(answers)]
        return {
            "verdict": _agreed(orders),
            "criteria": {
                criterion.name: _agreed(
                    [_side(answer[criterion.name], swapped=bool(n)) for n, answer in enumerate(answers)]
                )
                for criterion in spec.criteria
            },
            "orders": orders,
            "flipped": orders[0] != orders[1],
            "reasoning": _reasonings(answers, spec),
        }


class RubricJudge:
    """A score per criterion."""

    mode: JudgeMode = "rubric"

    def questions(self, item: RubricItem, spec: JudgeSpec) -> list[Question]:
        """See `Judge.questions`."""
        return [rubric_question(item, spec)]

    def result(self, item: RubricItem, answers: list[dict[str, Any]], spec: JudgeSpec) -> dict[str, Any]:
        """See `Judge.result`."""
        scores = {criterion.name: int(answers[0][criterion.name]) for criterion in spec.criteria}
        quality = sum(spec.scale.as_unit(score) for score in scores.values()) / len(scores)
        return {"scores": scores, "quality": quality, "reasoning": _reasonings(answers, spec)}


class ClusterJudge:
    """All candidates of a prompt grouped by strategy."""

    mode: JudgeMode = "cluster"

    def questions(self, item: ClusterItem, spec: JudgeSpec) -> list[Question]:
        """See `Judge.questions`."""
        return [cluster_question(item, spec)]

    def result(self, item: ClusterItem, answers: list[dict[str, Any]], spec: JudgeSpec) -> dict[str, Any]:
        """See `Judge.result`."""
        labels = [int(answers[0][name]) for name in candidate_names(len(item.members))]
        return {"classes": classes_of(labels), "reasoning": _reasonings(answers, spec)}


JUDGES: Mapping[JudgeMode, Judge[Any]] = {
    "pairwise": PairwiseJudge(),
    "rubric": RubricJudge(),
    "cluster": ClusterJudge(),
}


class _Conversation:
    """One question until its answer is valid, with everything that was asked on the way."""

    def __init__(self, client: JudgeClient, question: Question) -> None:
        self._client = client
        self._question = question
        self.keys: list[str] = []
        self.usage = Usage()
        self.failure: str | None = None

    async def run(self) -> dict[str, Any] | None:
        """The valid answer, or None and `failure`."""
        request = ChatRequest(self._question)
        spec = self._client.spec
        problem = ""
        for attempt in range(1, 2 + spec.max_retries):
            try:
                answered = await self._client.ask(request)
            except NoAnswer as error:
                return self._fail(f"{NO_ANSWER}: {error}")
            except Refused as error:
                return self._fail(f"{REFUSED}: {error}")
            self.keys.append(answered.key)
            self.usage += answered.usage
            try:
                return _valid(answered, self._question, spec)
            except InvalidAnswer as error:
                problem = str(error)
            request = _ask_again(self._question, answered.answer.text, problem, attempt)
        return self._fail(f"{INVALID_ANSWER} in {1 + spec.max_retries} tries, the last one: {problem}")

    def _fail(self, failure: str) -> None:
        self.failure = failure


async def judge_item(judge: Judge[Any], item: JudgeItem, client: JudgeClient) -> Judgement:
    """Asks all questions about an item at once and combines the answers. Raises BudgetReached and JudgeError."""
    spec = client.spec
    conversations = [_Conversation(client, question) for question in judge.questions(item, spec)]
    answers = await _all(conversations)
    failure = next((c.failure for c in conversations if c.failure is not None), None)
    valid = [answer for answer in answers if answer is not None]
    return Judgement(
        item_id=item.item_id,
        mode=judge.mode,
        task_id=item.task_id,
        cluster_id=item.cluster_id,
        models=tuple(candidate.model for candidate in item.candidates),
        samples=tuple(candidate.sample_index for candidate in item.candidates),
        status="judged" if failure is None else "unjudged",
        reason=failure,
        result=judge.result(item, valid, spec) if failure is None else {},
        usage=sum((c.usage for c in conversations), Usage()),
        requests=tuple(key for c in conversations for key in c.keys),
        judge=spec.name,
    )


async def _all(conversations: list[_Conversation]) -> list[dict[str, Any] | None]:
    """Runs them together; an error of one is raised when all have ended, so that nothing paid is lost."""
    outcomes = await asyncio.gather(*(c.run() for c in conversations), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def _valid(answered: Answered, question: Question, spec: JudgeSpec) -> dict[str, Any]:
    if answered.answer.finish_reason == "refusal":
        raise InvalidAnswer(f"the model declined: {answered.answer.text[:200]!r}")
    try:
        return parse_answer(answered.answer.text, question)
    except InvalidAnswer as error:
        if answered.answer.finish_reason == "length":
            raise InvalidAnswer(
                f"the answer was cut at {spec.max_tokens} tokens; be shorter ({error})"
            ) from None
        raise


def _ask_again(question: Question, answer: str, problem: str, attempt: int) -> ChatRequest:
    """The question, the answer and what was wrong with it. The number makes every try a request of its own,
    also where the same answer comes twice; only the last failure is carried along."""
    keys = ", ".join(question.schema["properties"])
    reply = (
        f"Your answer number {attempt} could not be used: {problem}.\n"
        f"Give the answer again as one JSON object with exactly these keys: {keys}. Nothing else."
    )
    later = ({"role": "assistant", "content": answer or "(nothing)"}, {"role": "user", "content": reply})
    return ChatRequest(question, later)


def _side(verdict: str, *, swapped: bool) -> Side:
    if verdict == "tie":
        return "tie"
    return "a" if (verdict == "A") != swapped else "b"


def _agreed(orders: Sequence[Side]) -> Side:
    return orders[0] if orders[0] == orders[1] else "tie"


def _reasonings(answers: list[dict[str, Any]], spec: JudgeSpec) -> list[str]:
    return [reasoning_of(answer) for answer in answers] if spec.explain else []
