"""Items for a judge, and its judgements: frozen values, one JSON line each way.

    PairItem, RubricItem, ClusterItem --Judge.judge--> Judgement --as_row--> a line of judgements.jsonl

An item without a usable answer is `unjudged` with its reason, never a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polyray.config.judge import JudgeMode

Status = Literal["judged", "unjudged"]
Side = Literal["a", "b", "tie"]
"""The better one of a pair: its first candidate, its second one, or neither."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money; sums with +.

    Example:
        Usage(requests=2, input_tokens=812, cached_tokens=512, output_tokens=64, cost_usd=0.00112)
    """

    requests: int = 0
    input_tokens: int = 0
    """All of the prompt, cached tokens included."""
    cached_tokens: int = 0
    """Input tokens that the provider had in its own cache."""
    output_tokens: int = 0
    cost_usd: float = 0.0
    """0 where no prices are configured."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
        )

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens

    def as_row(self) -> dict[str, Any]:
        """Plain values; the cost without the noise of adding floats."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": round(self.cost_usd, 10),
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text to be judged and where it comes from.

    Example:
        Candidate(text="Once upon a time ...", model="grpo", sample_index=3)
    """

    text: str
    model: str = ""
    sample_index: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    item_id: str
    """Unique within one stream of items."""
    task_id: str
    """The prompt."""
    prompt: str
    cluster_id: str
    """The unit of statistics."""


@dataclass(frozen=True, slots=True)
class PairItem(_Item):
    """Two answers to one prompt; asked in both orders.

    Example:
        PairItem("hanna-000|grpo:0|base:0", "hanna-000", "Write a story ...", "hanna-000",
                 first=Candidate("Once ...", "grpo"), second=Candidate("It was ...", "base"))
    """

    first: Candidate
    second: Candidate

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Both."""
        return (self.first, self.second)


@dataclass(frozen=True, slots=True)
class RubricItem(_Item):
    """One answer, scored on every criterion.

    Example:
        RubricItem("hanna-000|grpo:0", "hanna-000", "Write a story ...", "hanna-000", Candidate("Once ..."))
    """

    candidate: Candidate

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The one."""
        return (self.candidate,)


@dataclass(frozen=True, slots=True)
class ClusterItem(_Item):
    """All answers of one model to one prompt, grouped by strategy in one call.

    Example:
        ClusterItem("hanna-000|grpo", "hanna-000", "Write a story ...", "hanna-000",
                    members=(Candidate("Once ...", "grpo", 0), Candidate("It was ...", "grpo", 1)))
    """

    members: tuple[Candidate, ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All members."""
        return self.members


JudgeItem = PairItem | RubricItem | ClusterItem


@dataclass(frozen=True, slots=True)
class Judgement:
    """Judgement of one item: one line of judgements.jsonl.

    `result` of a judged item, by mode:
        pairwise  {"verdict": "a" | "b" | "tie", "criteria": {name: Side}, "orders": [Side, Side],
                   "flipped": bool, "reasoning": [str, str]}; orders[1] is the answer with the second
                   candidate shown first, also in terms of a and b
        rubric    {"scores": {name: int}, "quality": float in [0, 1], "reasoning": [str]}
        cluster   {"classes": [int per candidate, WRONG_CLASS for garbage], "reasoning": [str]}

    Example:
        Judgement(item_id="hanna-000|grpo:0", mode="rubric", task_id="hanna-000", cluster_id="hanna-000",
                  models=("grpo",), samples=(0,), status="judged", reason=None,
                  result={"scores": {"relevance": 4}, "quality": 0.75, "reasoning": []},
                  usage=Usage(1, 310, 0, 22, 0.0), requests=("9f86d0...",), judge="openai/qwen3-32b")
    """

    item_id: str
    mode: JudgeMode
    task_id: str
    cluster_id: str
    models: tuple[str, ...]
    """Models of the candidates, in the item's order."""
    samples: tuple[int, ...]
    status: Status
    reason: str | None
    """Reason why there is no result; begins with `invalid answer`, `refused` or `no answer`."""
    result: Mapping[str, Any]
    """Empty where unjudged."""
    usage: Usage
    """Cost of its answers when they were first given, retries included."""
    requests: tuple[str, ...]
    """Content hashes of the questions, in order; keys of the answers in the cache."""
    judge: str

    @property
    def judged(self) -> bool:
        """True where there is a result."""
        return self.status == "judged"

    @property
    def may_be_asked_again(self) -> bool:
        """True where the endpoint gave no answer at all: another start may get one."""
        return self.reason is not None and self.reason.startswith(NO_ANSWER)

    def as_row(self) -> dict[str, Any]:
        """Plain values in a fixed order."""
        return {
            "item_id": self.item_id,
            "mode": self.mode,
            "task_id": self.task_id,
            "cluster_id": self.cluster_id,
            "models": list(self.models),
            "samples": list(self.samples),
            "status": self.status,
            "reason": self.reason,
            "result": dict(self.result),
            "usage": self.usage.as_row(),
            "requests": list(self.requests),
            "judge": self.judge,
        }


NO_ANSWER = "no answer"
REFUSED = "refused"
INVALID_ANSWER = "invalid answer"
