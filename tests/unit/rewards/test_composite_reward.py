"""CompositeReward: means, products, gates, missing parts, ranges, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyray.config.loader import build_config
from polyray.config.reward import CompositeRewardSpec
from polyray.errors import ConfigError
from polyray.rewards.base import Score, ScoreItem, unscored
from polyray.rewards.composite import CompositeReward, Part
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.types import WRONG_CLASS, Prompt

DOWN = RuntimeError("down")


class Told:
    """Scores item number i with values[i]; None is unscored, an exception is raised."""

    name, inline = "told", False

    def __init__(
        self,
        values: Sequence[float | None] | Exception,
        low: float = 0.0,
        high: float = 1.0,
        version: str = "1",
        deterministic: bool = True,
    ) -> None:
        self._values = values
        self.score_range, self.version, self.deterministic = (low, high), version, deterministic

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        if isinstance(self._values, Exception):
            raise self._values
        return [
            unscored("told so") if value is None else Score(value, 10 + at, {"raw": 2 * value})
            for at, value in enumerate(self._values)
        ]

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        return (np.ones((len(items), len(items))) - np.eye(len(items))).tolist()


class Grouped(Told):
    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        return [len(items)] * len(items)


def composite(parts: dict[str, Any], rewards: dict[str, Told], **settings: Any) -> CompositeReward:
    listed = [{"name": name, "reward": {"type": "heuristic"}, **part} for name, part in parts.items()]
    spec = build_config(CompositeRewardSpec, {"parts": listed} | settings)
    return CompositeReward(spec, [Part(part, rewards[part.name]) for part in spec.parts])


def score(parts: dict[str, Any], values: dict[str, Any], **settings: Any) -> list[Score]:
    size = max(len(value) for value in values.values() if not isinstance(value, Exception))
    reward = composite(parts, {name: Told(value) for name, value in values.items()}, **settings)
    return reward.score([ScoreItem("p", str(at)) for at in range(size)])


OPTIONAL = {"required": False}
GATE = {"weight": 0, "gate": 0.5}


@pytest.mark.parametrize(
    ("parts", "values", "settings", "expected"),
    [
        ({"a": {"weight": 3}, "b": {}}, {"a": [0.4], "b": [0.8]}, {}, [(3 * 0.4 + 0.8) / 4]),
        (
            {"a": {}, "b": {}},
            {"a": [0.25, 0.0, 1.0], "b": [0.81, 1.0, 1.0]},
            {"combine": "product"},
            [(0.25 * 0.81) ** 0.5, 0.0, 1.0],
        ),
        ({"a": {}, "safe": GATE}, {"a": [0.9] * 3, "safe": [0.5, 0.49, 0.0]}, {}, [0.9, 0.0, 0.0]),
        (
            {"a": {}, "safe": GATE, "short": {"weight": 1, "gate": 0.6}},
            {"a": [0.9, 0.9], "safe": [0.4, 1.0], "short": [0.3, 0.5]},
            {"closed": "minimum"},
            [0.3, 0.5],
        ),
        ({"a": {}, "b": {}}, {"a": [0.5, 0.5], "b": [None, 1.0]}, {}, [None, 0.75]),
        (  # the weight of an optional part goes to the others
            {"a": {}, "b": {}, "c": {"weight": 2, **OPTIONAL}},
            {"a": [0.2, 0.2], "b": [0.6, 0.6], "c": [None, 1.0]},
            {},
            [0.4, (0.2 + 0.6 + 2) / 4],
        ),
        # a gate without a score decides nothing, a closed one decides alone
        ({"a": {}, "safe": {**GATE, **OPTIONAL}}, {"a": [0.9, None], "safe": [None, 0.1]}, {}, [None, 0.0]),
        ({"a": {}, "b": OPTIONAL}, {"a": [0.5], "b": DOWN}, {}, [0.5]),
        ({"a": {}, "b": {}}, {"a": [0.5], "b": DOWN}, {}, [None]),
        ({"a": {"weight": 0}, "b": OPTIONAL}, {"a": [0.5], "b": [None]}, {}, [None]),
    ],
)
def test_composite_score_by_hand(
    parts: dict[str, Any], values: dict[str, Any], settings: dict[str, Any], expected: list[float | None]
) -> None:
    results = score(parts, values, **settings)
    assert [result.score for result in results] == [
        None if value is None else pytest.approx(value) for value in expected
    ]
    reasons = {str(result.error).rpartition(": ")[2] for result in results if result.score is None}
    assert reasons <= {"told so", "down"}


def test_composite_components_name_their_part_and_a_closed_gate() -> None:
    (result,) = score({"a": {"weight": 3}, "b": {}}, {"a": [0.4], "b": [0.8]})
    assert result.components == {"a": 0.4, "b": 0.8, "a/raw": 0.8, "b/raw": 1.6} and result.class_id == 10
    opened, closed = score({"a": {}, "safe": GATE}, {"a": [0.9, 0.9], "safe": [0.5, 0.49]})
    assert [each.class_id for each in (opened, closed)] == [10, WRONG_CLASS]
    assert [each.components["gate_closed"] for each in (opened, closed)] == [0.0, 1.0]
    (missing,) = score({"a": {}, "b": {}}, {"a": [0.5], "b": [None]})
    assert "composite/a+b" in str(missing.error) and "b: told so" in str(missing.error)


@given(
    st.lists(
        st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1), st.floats(0.1, 3)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["mean", "product"]),
    st.sampled_from(["zero", "minimum"]),
    st.floats(0, 1),
)
def test_composite_score_lies_in_its_declared_range(
    told: list[tuple[float, float, float, float]], combine: str, closed: str, gate: float
) -> None:
    parts: dict[str, Any] = {}
    rewards: dict[str, Told] = {}
    for at, (low, width, where, weight) in enumerate(told):
        parts[f"p{at}"] = {"weight": weight} | ({"gate": gate} if at == 0 else {})
        rewards[f"p{at}"] = Told([min(low + where * width, low + width)], low, low + width)
    reward = composite(parts, rewards, combine=combine, closed=closed)
    (result,) = reward.score([ScoreItem("p", "c")])
    assert result.error is None and result.score is not None
    assert reward.score_range[0] <= result.score <= reward.score_range[1]


def test_composite_range_version_and_determinism_follow_all_parts() -> None:
    rewards = {"a": Told([0.5], 0.2, 0.6), "b": Told([0.5], 0.4, 0.9)}
    assert composite({"a": {}, "b": {}}, rewards).score_range == (0.2, 0.9)
    assert composite({"a": {"gate": 0.3}, "b": {}}, rewards).score_range == (0.0, 0.9)
    gated = composite({"a": {"weight": 0, "gate": 0.3}, "b": {}}, rewards, closed="minimum")
    assert gated.score_range == (0.2, 0.9)
    alone = composite({"a": {}}, {"a": Told([0])})
    unsteady = composite({"a": {}, "b": {}}, {"a": Told([0]), "b": Told([0], deterministic=False)})
    assert alone.deterministic and not unsteady.deterministic
    others = [
        composite({"a": {"weight": 2}}, {"a": Told([0])}),
        composite({"a": {}}, {"a": Told([0], version="2")}),
    ]
    assert len({reward.version for reward in (alone, *others)}) == 3


def test_composite_classes_and_distances_come_from_one_part() -> None:
    rewards = {"a": Told([0.5, 0.1, 0.9]), "b": Grouped([0.5, 0.5, 0.5])}
    parts = {"a": {"gate": 0.2}, "b": {}}
    request = GroupToScore(Prompt("1", "p"), ("x", "y", "z"), want_distances=True)
    (group,) = score_groups(composite(parts, rewards, classes_from="b"), [request])
    assert group.classes_G.tolist() == [2, WRONG_CLASS, 2]  # the partition sees what the gate let through
    assert group.distances_GG is not None
    assert group.distances_GG.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    (group,) = score_groups(composite(parts, rewards), [request])
    assert group.classes_G.tolist() == [10, WRONG_CLASS, 12]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": []}, "weight.*0"),
        ({"parts": [{"name": "a", "weight": 0, "reward": {}}]}, "weight.*0"),
        ({"parts": [{"name": "a", "reward": {}}, {"name": "a", "reward": {}}]}, "twice"),
        ({"parts": [{"name": "a", "reward": {}}], "classes_from": "b"}, "classes_from='b'"),
        ({"parts": [{"name": "a", "reward": {"type": "heuristic", "service": {"port": 0}}}]}, "'a'.*service"),
    ],
)
def test_composite_settings_that_contradict_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(CompositeRewardSpec, values)
