"""Wire formats of remote rewards: requests, and scores from answers. One class per protocol.

    PolyrayWire    POST URL/v1/score   protocol.py
    OpenRlhfWire   POST URL            OpenRLHF's remote_rm_url: {"query": [...], "prompts": [...], "labels": [...]}
                                       -> {"rewards": [...], "scores"?: [...], "extra_logs"?: {name: [...]}}

Items are encoded one by one, so that batches can be cut by bytes. A fault in the answer for one item leaves that
item unscored; a fault of the whole answer is a RewardError. Called by client.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from pydantic import ValidationError

from polyray.config.remote_reward import HttpRewardSpec
from polyray.errors import RewardError
from polyray.rewards.base import Score, ScoreItem, checked_score, unscored
from polyray.rewards.protocol import WireItem, WireScore

EXCERPT_CHARS = 300
UNJUDGED_CLASS = 0
"""Class of a score by a protocol without classes; the caller replaces it by the task's."""

Encoded = tuple[bytes, ...]
"""An item as JSON: one value per column of the body."""


class Wire(Protocol):
    """One protocol."""

    route: str
    """Path that is added to the service's address."""

    def encode(self, item: ScoreItem) -> Encoded:
        """Raises RewardError for an item that the protocol cannot carry."""
        ...

    def body(self, items: Sequence[Encoded]) -> bytes:
        """The request."""
        ...

    def scores(self, answer: Mapping[str, Any], num_items: int) -> list[Score]:
        """One per item. Raises RewardError naming what came instead."""
        ...


class PolyrayWire:
    """See protocol.py."""

    route = "/v1/score"

    def __init__(self, model: str | None = None) -> None:
        self._head = b"" if model is None else b'"model":' + _json(model) + b","

    def encode(self, item: ScoreItem) -> Encoded:
        """See Wire."""
        try:
            return (_json(WireItem.of(item).model_dump(mode="json", exclude_defaults=True)),)
        except ValidationError as error:
            raise RewardError(f"this item cannot be sent: {first_problem(error)}") from None
        except (ValueError, TypeError) as error:  # metadata may hold anything
            raise RewardError(f"this item cannot be sent: {type(error).__name__}: {error}") from None

    def body(self, items: Sequence[Encoded], *, distances: bool = False) -> bytes:
        """See Wire; `distances` asks for the matrix of the whole batch."""
        joined = b",".join(item for (item,) in items)
        return (
            b"{" + self._head + b'"items":[' + joined + b"]" + (b',"distances":true}' if distances else b"}")
        )

    def scores(self, answer: Mapping[str, Any], num_items: int) -> list[Score]:
        """See Wire."""
        return [self._score(entry) for entry in _entries(answer, "scores", num_items)]

    def _score(self, entry: object) -> Score:
        try:
            return WireScore.model_validate(entry).as_score()
        except ValidationError as error:
            return unscored(f"the reward service answered an invalid score: {first_problem(error)}")


class OpenRlhfWire:
    """Rewards of any range, mapped linearly from `raw_range` to [0, 1]; components: raw, clipped, and extra_logs."""

    route = ""

    def __init__(self, spec: HttpRewardSpec) -> None:
        assert spec.raw_range is not None
        self._low, self._high = spec.raw_range
        self._clip = spec.outside == "clip"
        self._pieces = re.split(r"(\{prompt\}|\{completion\})", spec.query)

    def encode(self, item: ScoreItem) -> Encoded:
        """See Wire. `labels` is the reference, or nothing."""
        texts = {"{prompt}": item.prompt, "{completion}": item.completion}
        query = "".join(texts.get(piece, piece) for piece in self._pieces)
        return _json(query), _json(item.prompt), _json(item.reference or "")

    def body(self, items: Sequence[Encoded]) -> bytes:
        """See Wire."""
        columns = [b",".join(column) for column in zip(*items, strict=True)]
        return (
            b'{"query":[' + columns[0] + b'],"prompts":[' + columns[1] + b'],"labels":[' + columns[2] + b"]}"
        )

    def scores(self, answer: Mapping[str, Any], num_items: int) -> list[Score]:
        """See Wire; a reward may be a number or a list of one."""
        rewards = _entries(answer, "rewards", num_items)
        logs = answer.get("extra_logs")
        columns = {
            str(name): values
            for name, values in (logs.items() if isinstance(logs, Mapping) else ())
            if isinstance(values, list) and len(values) == num_items
        }
        if isinstance(answer.get("scores"), list) and len(answer["scores"]) == num_items:
            columns["scores"] = answer["scores"]
        return [
            self._score(raw, {name: values[at] for name, values in columns.items()})
            for at, raw in enumerate(rewards)
        ]

    def _score(self, raw: object, logs: Mapping[str, object]) -> Score:
        value = raw[0] if isinstance(raw, list) and len(raw) == 1 else raw
        if not _is_number(value):
            return unscored(
                f"the reward service answered {str(raw)[:EXCERPT_CHARS]}, which is not a finite number"
            )
        outside = not self._low <= value <= self._high
        if outside and not self._clip:
            return unscored(
                f"the reward service answered {value}, outside raw_range=[{self._low:g}, {self._high:g}]; widen it, "
                "or set outside: clip"
            )
        unit = (value - self._low) / (self._high - self._low)
        components = {name: float(part) for name, part in logs.items() if _is_number(part)}
        components |= {"raw": float(value), "clipped": float(outside)}
        return checked_score(min(1.0, max(0.0, unit)), UNJUDGED_CLASS, components, "the reward service")


def build_wire(spec: HttpRewardSpec) -> Wire:
    """The protocol that a configuration names."""
    return PolyrayWire(spec.model) if spec.protocol == "polyray" else OpenRlhfWire(spec)


def first_problem(error: ValidationError) -> str:
    """Place and message of the first problem."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "it"
    return f"{where}: {first['msg']}"


def _entries(answer: Mapping[str, Any], key: str, num_items: int) -> list[Any]:
    entries = answer.get(key)
    if not isinstance(entries, list):
        raise RewardError(f"no list of {key}: {str(dict(answer))[:EXCERPT_CHARS]}")
    if len(entries) != num_items:
        raise RewardError(f"{len(entries)} {key} for {num_items} items")
    return entries


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _json(value: Any) -> bytes:
    """ASCII, so that half a character of a model travels, too."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
