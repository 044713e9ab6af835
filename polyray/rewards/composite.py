"""Several rewards as one: each part scores every item, then gates, then a weighted mean or product.

    gate      a part below its threshold closes it: the score is 0, or the lowest score of a closed gate
    mean      sum of w s / sum of w over the parts that have a score and a weight
    product   product of s ** (w / sum of w): a part at 0 makes the whole 0

A part without a score leaves the item unscored where the part is `required` (the default) or a gate; else its
weight goes to the others. Behind a closed gate nothing else is looked at, so a cheap gate also decides about items
that a dearer part could not score. Components: NAME and NAME/<its own> of every part, and gate_closed.

Classes and distances are those of one part (`classes_from`); a closed gate makes an item's class WRONG_CLASS.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyray.config.reward import CompositePartSpec, CompositeRewardSpec
from polyray.errors import RewardError
from polyray.rewards.base import GroupPartition, Reward, Score, ScoreItem, checked_score, unscored
from polyray.types import WRONG_CLASS


@dataclass(frozen=True, slots=True)
class Part:
    """A reward with its place in the whole.

    Example:
        Part(CompositePartSpec(name="safe", weight=0, gate=0.5, reward=...), HeuristicReward(...))
    """

    spec: CompositePartSpec
    reward: Reward


class CompositeReward:
    """See the module."""

    inline = False

    def __init__(self, spec: CompositeRewardSpec, parts: Sequence[Part]) -> None:
        self._spec = spec
        self._parts = tuple(parts)
        named = {part.spec.name: part for part in self._parts}
        self._classes = named[spec.classes_from] if spec.classes_from else self._parts[0]
        self.name = f"composite/{'+'.join(named)}"
        identity = [
            spec.model_dump(mode="json", exclude={"service"}),
            [part.reward.version for part in parts],
        ]
        self.version = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.deterministic = all(part.reward.deterministic for part in self._parts)
        self.score_range = self._range()

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; a part that raises leaves its scores missing, with the reason."""
        by_part = [_scores_of(part, items) for part in self._parts]
        return [self._combined(scores) for scores in zip(*by_part, strict=True)]

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        """Classes of the configured part if it depends on the group; else those of the scores."""
        reward = self._classes.reward
        if isinstance(reward, GroupPartition):
            return reward.group_classes(items, scores)
        return [score.class_id for score in scores]

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """Distances of the part that determines classes; 0 to and from completions behind a closed gate."""
        matrix = self._classes.reward.distances(items, scores)
        open_ = [not score.components.get("gate_closed", 0.0) for score in scores]
        return [
            [value if open_[i] and open_[j] else 0.0 for j, value in enumerate(row)]
            for i, row in enumerate(matrix)
        ]

    def _combined(self, scores: Sequence[Score]) -> Score:
        known = {
            part.spec.name: score.score
            for part, score in zip(self._parts, scores, strict=True)
            if score.score is not None
        }
        components = self._components(scores, known)
        closed = [
            known[part.spec.name]
            for part in self._parts
            if part.spec.gate is not None and known.get(part.spec.name, math.inf) < part.spec.gate
        ]
        if closed:
            value = 0.0 if self._spec.closed == "zero" else min(closed)
            return checked_score(
                value, WRONG_CLASS, components | {"gate_closed": 1.0}, self.name, self.score_range
            )
        for part, score in zip(self._parts, scores, strict=True):
            needed = part.spec.required or part.spec.gate is not None
            if score.score is None and (needed or part is self._classes):
                return unscored(f"{self.name}, part {part.spec.name}: {score.error}")
        weights = {part.spec.name: part.spec.weight for part in self._parts if part.spec.name in known}
        if not any(weights.values()):
            reasons = "; ".join(str(score.error) for score in scores if score.error)
            return unscored(f"{self.name}: no part with a weight has a score: {reasons}")
        value = _mean(known, weights) if self._spec.combine == "mean" else _product(known, weights)
        if any(part.spec.gate is not None for part in self._parts):
            components["gate_closed"] = 0.0
        class_id = scores[self._parts.index(self._classes)].class_id
        return checked_score(value, class_id, components, self.name, self.score_range)

    def _components(self, scores: Sequence[Score], known: Mapping[str, float]) -> dict[str, float]:
        components = dict(known)
        for part, score in zip(self._parts, scores, strict=True):
            components |= {f"{part.spec.name}/{name}": value for name, value in score.components.items()}
        return components

    def _range(self) -> tuple[float, float]:
        """Renormalising over fewer parts stays within the hull of the weighted parts' ranges."""
        weighted = [part.reward.score_range for part in self._parts if part.spec.weight > 0]
        low, high = min(low for low, _ in weighted), max(high for _, high in weighted)
        gates = [part.reward.score_range[0] for part in self._parts if part.spec.gate is not None]
        if gates:
            low = 0.0 if self._spec.closed == "zero" else min(low, *gates)
            thresholds = [part.spec.gate for part in self._parts if part.spec.gate is not None]
            high = high if self._spec.closed == "zero" else max(high, *thresholds)
        return low, high


def _scores_of(part: Part, items: Sequence[ScoreItem]) -> list[Score]:
    try:
        scores = part.reward.score(items)
        if len(scores) != len(items):
            raise RewardError(f"{len(scores)} scores for {len(items)} items")
    except Exception as error:  # one part's failure is that part's, not the whole batch's
        return [unscored(f"{type(error).__name__}: {error}")] * len(items)
    return scores


def _mean(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    mean = sum(weights[name] * scores[name] for name in weights) / sum(weights.values())
    return _within(mean, [scores[name] for name in weights if weights[name]])


def _product(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    total = sum(weights.values())
    product = math.prod(scores[name] ** (weight / total) for name, weight in weights.items() if weight)
    return _within(product, [scores[name] for name in weights if weights[name]])


def _within(value: float, scores: Sequence[float]) -> float:
    """Clamp a mean to the range of its scores; rounding may leave it an ulp outside."""
    return min(max(value, min(scores)), max(scores))
