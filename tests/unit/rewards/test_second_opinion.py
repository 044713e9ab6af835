"""SecondOpinionReward: the first reward unchanged, the second one as a component or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.config.reward import (
    CompositePartSpec,
    CompositeRewardSpec,
    PythonRewardSpec,
    VerifierRewardSpec,
)
from polyray.config.task import HiddenTrapGridSpec
from polyray.config.text_reward import EngagementRewardSpec, HeuristicRewardSpec
from polyray.errors import ConfigError
from polyray.rewards import RewardPlan, plan_reward
from polyray.rewards.base import Score, ScoreItem, unscored
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.second_opinion import SecondOpinionReward
from polyray.types import Prompt


class Told:
    name, inline, deterministic, score_range = "told", True, True, (0.0, 0.9)

    def __init__(self, scores: list[Score] | Exception, version: str = "1") -> None:
        self._scores = scores
        self.version = version

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        if isinstance(self._scores, Exception):
            raise self._scores
        return self._scores

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        return [5] * len(items)

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        return [[0.0] * len(items) for _ in items]


ITEMS = [ScoreItem("p", "a"), ScoreItem("p", "b"), ScoreItem("p", "c")]
FIRST = [Score(0.5, 1, {"x": 1.0}), unscored("first"), Score(0.25, 2)]


def test_the_second_score_is_a_component_and_a_missing_one_is_missing() -> None:
    second = [Score(0.75, 9, {"y": 1.0}), Score(0.5, 9), unscored("why")]
    both = SecondOpinionReward(Told(FIRST), Told(second, "2"))
    assert both.score(ITEMS) == [
        Score(0.5, 1, {"x": 1.0, "second_opinion": 0.75}),
        Score(None, -1, {"second_opinion": 0.5}, "first"),
        Score(0.25, 2),
    ]
    assert (both.name, both.version, both.score_range, both.deterministic) == (
        "told",
        "1+2",
        (0.0, 0.9),
        True,
    )
    (group,) = score_groups(both, [GroupToScore(Prompt("1", "p"), ("a", "b", "c"))])
    assert group.classes_G.tolist() == [5, -1, 5]


@pytest.mark.parametrize("second", [RuntimeError("down"), [Score(0.1, 0)]])
def test_a_second_opinion_that_fails_costs_the_first_one_nothing(
    second: list[Score] | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    both = SecondOpinionReward(Told(FIRST), Told(second))
    assert both.score(ITEMS) == FIRST and both.score(ITEMS) == FIRST
    assert len([record for record in caplog.records if "is missing" in record.message]) == 1


def test_a_plan_builds_both() -> None:
    task = HiddenTrapGridSpec(trap_probability=0.0)
    second = HeuristicRewardSpec()
    reward = plan_reward(VerifierRewardSpec(), task, None, second).build()
    alone = plan_reward(VerifierRewardSpec(), task).build()
    item = ScoreItem("37|b1>e4=", "RRRUUU")
    (score,), (expected,) = reward.score([item]), alone.score([item])
    opinion = plan_reward(second, task).build().score([item])[0].score
    assert (score.score, score.class_id) == (expected.score, expected.class_id)
    assert score.components == {"second_opinion": opinion}


def test_second_opinion_equal_to_the_reward_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"second_opinion.*reward"):
        plan_reward(HeuristicRewardSpec(), HiddenTrapGridSpec(), None, HeuristicRewardSpec())
    with pytest.raises(ConfigError, match=r"/no\.py"):
        plan_reward(HeuristicRewardSpec(), HiddenTrapGridSpec(), None, PythonRewardSpec(path="no.py:score"))


def test_two_engagement_models_must_have_learnt_from_different_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = {"train": {"a", "b"}, "other": {"c"}, "overlapping": {"b", "c"}}
    for name in threads:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")

    def card(path: Path) -> Any:
        data = SimpleNamespace(half="?", split_seed=0)
        return SimpleNamespace(name=path.name, version=path.name, clusters=threads[path.name], data=data)

    monkeypatch.setattr("polyray.shelf.preferences.reward_model.read_card", card)

    def plan(second: str) -> RewardPlan:
        first = EngagementRewardSpec(path=str(tmp_path / "train"))
        part = CompositePartSpec(name="a", reward=first)
        beside = EngagementRewardSpec(path=str(tmp_path / second))
        return plan_reward(CompositeRewardSpec(parts=(part,)), HiddenTrapGridSpec(), None, beside)

    assert plan("other").second_opinion == EngagementRewardSpec(path=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"\b1 of 2\b.*\b2\b"):
        plan("overlapping")
    with pytest.raises(ConfigError, match=r"'train'.*'train'"):
        plan("train")
