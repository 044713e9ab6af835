"""CompositeReward: means, products, gates, missing parts, ranges, classes; from parts that say what they are told."""

from __future__ import annotations

import re
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


class Told:
    """Scores item number i with values[i]; None is unscored, an exception is raised."""

    name, version, inline, deterministic = "told", "1", False, True

    def __init__(
        self, values: Sequence[float | None] | Exception, low: float = 0.0, high: float = 1.0
    ) -> None:
        self._values = values
        self.score_range = (low, high)

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
    values = {
        "parts": [{"name": name, "reward": {"type": "heuristic"}, **part} for name, part in parts.items()]
    }
    spec = build_config(CompositeRewardSpec, values | settings)
    return CompositeReward(spec, [Part(part, rewards[part.name]) for part in spec.parts])


def score(
    parts: dict[str, Any], values: dict[str, Sequence[float | None] | Exception], **settings: Any
) -> list[Score]:
    size = max(len(value) for value in values.values() if not isinstance(value, Exception))
    reward = composite(parts, {name: Told(value) for name, value in values.items()}, **settings)
    return reward.score([ScoreItem("p", str(at)) for at in range(size)])


def test_the_weighted_mean_with_every_part_and_its_components() -> None:
    (result,) = score({"a": {"weight": 3}, "b": {}}, {"a": [0.4], "b": [0.8]})
    assert result.score == pytest.approx((3 * 0.4 + 0.8) / 4)
    assert result.components == {"a": 0.4, "b": 0.8, "a/raw": 0.8, "b/raw": 1.6}
    assert result.class_id == 10


def test_the_weighted_product() -> None:
    values: dict[str, Any] = {"a": [0.25, 0.0, 1.0], "b": [0.81, 1.0, 1.0]}
    results = score({"a": {"weight": 1}, "b": {"weight": 1}}, values, combine="product")
    assert [result.score for result in results] == pytest.approx([(0.25 * 0.81) ** 0.5, 0.0, 1.0])


def test_a_closed_gate_makes_the_score_zero_and_the_class_wrong() -> None:
    parts = {"a": {}, "safe": {"weight": 0, "gate": 0.5}}
    results = score(parts, {"a": [0.9, 0.9, 0.9], "safe": [0.5, 0.49, 0.0]})
    assert [result.score for result in results] == [0.9, 0.0, 0.0]
    assert [result.class_id for result in results] == [10, WRONG_CLASS, WRONG_CLASS]
    assert [result.components["gate_closed"] for result in results] == [0.0, 1.0, 1.0]


def test_behind_a_closed_gate_the_lowest_gates_score_on_request() -> None:
    parts = {"a": {}, "safe": {"weight": 0, "gate": 0.5}, "short": {"weight": 1, "gate": 0.6}}
    values: dict[str, Any] = {"a": [0.9, 0.9], "safe": [0.4, 1.0], "short": [0.3, 0.5]}
    assert [result.score for result in score(parts, values, closed="minimum")] == [0.3, 0.5]


def test_a_required_part_without_a_score_leaves_the_item_unscored() -> None:
    first, second = score({"a": {}, "b": {}}, {"a": [0.5, 0.5], "b": [None, 1.0]})
    assert first.score is None and re.search(r"composite/a\+b.*\bb: told so$", str(first.error))
    assert second.score == 0.75


def test_the_weight_of_an_optional_part_goes_to_the_others() -> None:
    parts = {"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 2, "required": False}}
    first, second = score(parts, {"a": [0.2, 0.2], "b": [0.6, 0.6], "c": [None, 1.0]})
    assert first.score == pytest.approx(0.4) and "c" not in first.components
    assert second.score == pytest.approx((0.2 + 0.6 + 2) / 4)


def test_a_gate_without_a_score_stays_unscored_and_a_closed_one_decides_alone() -> None:
    parts = {"a": {}, "safe": {"weight": 0, "gate": 0.5, "required": False}}
    unknown, closed = score(parts, {"a": [0.9, None], "safe": [None, 0.1]})
    assert unknown.score is None and closed.score == 0.0


def test_a_part_that_raises_is_that_parts_failure() -> None:
    parts = {"a": {}, "b": {"required": False}}
    (result,) = score(parts, {"a": [0.5], "b": RuntimeError("down")})
    assert result.score == 0.5
    (result,) = score({"a": {}, "b": {}}, {"a": [0.5], "b": RuntimeError("down")})
    assert result.score is None and "part b: RuntimeError: down" in str(result.error)


def test_nothing_with_a_weight_has_a_score() -> None:
    parts = {"a": {"weight": 0}, "b": {"required": False}}
    (result,) = score(parts, {"a": [0.5], "b": [None]})
    assert result.score is None and str(result.error).endswith(": told so")


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
def test_every_score_lies_in_the_declared_range(
    told: list[tuple[float, float, float, float]], combine: str, closed: str, gate: float
) -> None:
    parts: dict[str, Any] = {}
    rewards: dict[str, Told] = {}
    for at, (low, width, where, weight) in enumerate(told):
        name = f"p{at}"
        parts[name] = {"weight": weight} | ({"gate": gate} if at == 0 else {})
        rewards[name] = Told([min(low + where * width, low + width)], low, low + width)
    reward = composite(parts, rewards, combine=combine, closed=closed)
    (result,) = reward.score([ScoreItem("p", "c")])
    assert result.error is None and result.score is not None
    assert reward.score_range[0] <= result.score <= reward.score_range[1]


def test_ranges_of_parts_make_that_of_the_whole() -> None:
    rewards = {"a": Told([0.5], 0.2, 0.6), "b": Told([0.5], 0.4, 0.9)}
    assert composite({"a": {}, "b": {}}, rewards).score_range == (0.2, 0.9)
    assert composite({"a": {"gate": 0.3}, "b": {}}, rewards).score_range == (0.0, 0.9)
    gated = composite({"a": {"weight": 0, "gate": 0.3}, "b": {}}, rewards, closed="minimum")
    assert gated.score_range == (0.2, 0.9)


def test_classes_and_distances_come_from_one_part() -> None:
    rewards = {"a": Told([0.5, 0.1, 0.9]), "b": Grouped([0.5, 0.5, 0.5])}
    parts = {"a": {"gate": 0.2}, "b": {}}
    request = GroupToScore(Prompt("1", "p"), ("x", "y", "z"), want_distances=True)
    (group,) = score_groups(composite(parts, rewards, classes_from="b"), [request])
    assert group.classes_G.tolist() == [2, WRONG_CLASS, 2]  # the partition sees what the gate let through
    assert group.distances_GG is not None
    assert group.distances_GG.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    (group,) = score_groups(composite(parts, rewards), [request])
    assert group.classes_G.tolist() == [10, WRONG_CLASS, 12]


def test_whether_scores_may_be_kept_is_decided_by_all_parts() -> None:
    unsteady = Told([0.5])
    unsteady.deterministic = False
    assert composite({"a": {}}, {"a": Told([0.5])}).deterministic
    assert not composite({"a": {}, "b": {}}, {"a": Told([0.5]), "b": unsteady}).deterministic


def test_the_version_follows_settings_and_parts() -> None:
    versions = {
        composite({"a": {"weight": weight}}, {"a": part}).version
        for weight, part in ((1, Told([0])), (2, Told([0])))
    }
    other = Told([0])
    other.version = "2"
    versions.add(composite({"a": {"weight": 1}}, {"a": other}).version)
    assert len(versions) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": []}, "weight.*0"),
        ({"parts": [{"name": "a", "weight": 0, "reward": {}}]}, "weight.*0"),
        ({"parts": [{"name": "a", "reward": {}}, {"name": "a", "reward": {}}]}, "twice"),
        ({"parts": [{"name": "a", "reward": {}}], "classes_from": "b"}, "classes_from='b'"),
        (
            {"parts": [{"name": "a", "reward": {"type": "heuristic", "service": {"port": 0}}}]},
            "'a'.*service",
        ),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(CompositeRewardSpec, values)
