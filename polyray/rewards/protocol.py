"""The JSON of the reward service. Spoken by polyray/serving/reward and by the clients.

    POST /v1/score      {"items": [{"prompt", "completion", "reference"?, "metadata"?, "messages"?, "group"?}],
                         "distances"?, "model"?}
                     -> {"reward_model", "version", "scores": [{"score", "class", "components", "error"}],
                         "distances"?: {group: matrix}}
    GET  /v1/info       {"reward_model", "version", "revision", "reload_error", "models": [...]}

Items that name the same `group` and have the same prompt get the classes of that group. Requests refuse
unknown keys; answers tolerate them, so that an older client reads a newer service. `model` is a name that
/v1/models lists; without it, the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyray.config.base import StrictModel
from polyray.errors import RewardError
from polyray.rewards.base import Reward, Score, ScoreItem
from polyray.rewards.groups import with_group_classes

MAX_ITEMS = 1024
MAX_TEXT_CHARS = 200_000
MAX_MESSAGES = 256
MAX_DISTANCE_ITEMS = 256
"""Largest group for which distances are computed: their number grows with the square."""
DEFAULT_GROUP = "default"

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Name = Annotated[str, Field(max_length=256)]
Distance = Annotated[float, Field(ge=0, le=1)]


class WireItem(StrictModel):
    """One completion to be scored."""

    prompt: Text
    completion: Text
    reference: Text | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    messages: tuple[dict[str, Text], ...] | None = Field(default=None, max_length=MAX_MESSAGES)
    group: str = Field(DEFAULT_GROUP, max_length=256, description="items of one group get a distance matrix")

    @classmethod
    def of(cls, item: ScoreItem, group: str = DEFAULT_GROUP) -> WireItem:
        """The wire form of an item. Raises pydantic's ValidationError for a text over the limit."""
        messages = None if item.messages is None else tuple(dict(message) for message in item.messages)
        return cls(
            prompt=item.prompt,
            completion=item.completion,
            reference=item.reference,
            metadata=dict(item.metadata),
            messages=messages,
            group=group,
        )

    def as_item(self) -> ScoreItem:
        """The item as rewards read it."""
        return ScoreItem(self.prompt, self.completion, self.reference, self.metadata, self.messages)


class ScoreRequest(StrictModel):
    """The body of POST /v1/score."""

    items: tuple[WireItem, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    distances: bool = False
    model: Name | None = Field(default=None, description="one of /v1/models; null: the first")

    @model_validator(mode="after")
    def _groups_small_enough(self) -> ScoreRequest:
        if self.distances:
            for name, members in self.groups().items():
                if len(members) > MAX_DISTANCE_ITEMS:
                    raise ValueError(
                        f"group {name!r} has {len(members)} items; distances are computed for at most "
                        f"{MAX_DISTANCE_ITEMS} per group: give items of different prompts different groups"
                    )
        return self

    def groups(self) -> dict[str, list[int]]:
        """Group name -> positions of its items, in order of appearance."""
        positions: dict[str, list[int]] = {}
        for at, item in enumerate(self.items):
            positions.setdefault(item.group, []).append(at)
        return positions

    def named_groups(self) -> list[list[int]]:
        """Positions of the items that name the same group and ask the same; items without a group: none."""
        positions: dict[str, list[int]] = {}
        for at, item in enumerate(self.items):
            if item.group != DEFAULT_GROUP:
                positions.setdefault(item.model_dump_json(exclude={"completion"}), []).append(at)
        return list(positions.values())


class WireScore(BaseModel):
    """One Score; `class` is a Python keyword, hence the alias."""

    model_config = ConfigDict(populate_by_name=True, allow_inf_nan=False)

    score: float | None = Field(default=None, ge=0, le=1)
    class_id: int = Field(alias="class", ge=-1, lt=2**63)
    components: dict[str, float] = Field(default_factory=dict)
    error: str | None = None

    def as_score(self) -> Score:
        """The score as the rest of polyray reads it."""
        return Score(self.score, self.class_id, self.components, self.error)


class ScoreResponse(BaseModel):
    """The answer of POST /v1/score: scores in the order of the items, matrices in that within each group."""

    model_config = ConfigDict(allow_inf_nan=False)

    reward_model: str
    version: str
    scores: list[WireScore]
    distances: dict[str, list[list[Distance]]] | None = None


class ModelInfo(BaseModel):
    """One served reward model."""

    model_config = ConfigDict(protected_namespaces=())

    id: str = Field(description="what requests call it")
    reward_model: str
    version: str
    score_range: tuple[float, float]
    cached: bool = Field(description="whether equal items are scored once")


class ModelList(BaseModel):
    """The answer of GET /v1/models; the first is the default."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ServiceInfo(BaseModel):
    """The answer of GET /v1/info."""

    reward_model: str
    version: str
    revision: str = Field(description="of the configuration that the replica serves")
    reload_error: str | None = Field(
        description="why the last new configuration was refused; the one before it still serves"
    )
    refused_revision: str | None = Field(default=None, description="of that configuration")
    models: list[ModelInfo]


def answer_scores(
    reward: Reward, request: ScoreRequest, items: Sequence[ScoreItem], item_scores: Sequence[Score]
) -> ScoreResponse:
    """Build the answer from the scores of a request's items; adds classes and distances of its groups."""
    scores = list(item_scores)
    for members in request.named_groups():
        group = [items[at] for at in members]
        for at, score in zip(
            members, with_group_classes(reward, group, [scores[at] for at in members]), strict=True
        ):
            scores[at] = score
    distances = None
    if request.distances:
        distances = {
            name: reward.distances([items[at] for at in members], [scores[at] for at in members])
            for name, members in request.groups().items()
        }
    return ScoreResponse(
        reward_model=reward.name,
        version=reward.version,
        scores=[
            WireScore.model_validate(
                {
                    "score": score.score,
                    "class": score.class_id,
                    "components": score.components,
                    "error": score.error,
                }
            )
            for score in scores
        ],
        distances=distances,
    )


def check_matrix(matrix: Sequence[Sequence[float]], size: int) -> None:
    """Raises RewardError unless `matrix` is [size][size], symmetric, with a zero diagonal."""
    if len(matrix) != size or any(len(row) != size for row in matrix):
        raise RewardError(f"a distance matrix that is not {size} x {size}")
    values = np.asarray(matrix, np.float64).reshape(size, size)
    if not np.array_equal(values, values.T) or np.diag(values).any():
        raise RewardError("a distance matrix that is not symmetric with a zero diagonal")
