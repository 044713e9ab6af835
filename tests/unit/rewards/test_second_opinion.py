"""SecondOpinionReward: the first reward unchanged, the second one as a component or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.config.reward import CompositePartSpec, CompositeRewardSpec, PythonRewardSpec, VerifierRewardSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.config.text_reward import EngagementRewardSpec, HeuristicRewardSpec
from polyray.errors import ConfigError
from polyray.rewards import plan_reward
from polyray.rewards.base import Score, ScoreItem, unscored
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.second_opinion import SecondOpinionReward
from polyray.types import Prompt

TASK = HiddenTrapGridSpec(trap_probability=0.0)
ITEMS = [ScoreItem("p", text) for text in "abc"]
FIRST = [Score(0.5, 1, {"x": 1.0}), unscored("first"), Score(0.25, 2)]


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


def test_second_opinion_is_a_component_of_the_first_reward() -> None:
    second = [Score(0.75, 9, {"y": 1.0}), Score(0.5, 9), unscored("why")]
    both = SecondOpinionReward(Told(FIRST), Told(second, "2"))
    assert both.score(ITEMS) == [
        Score(0.5, 1, {"x": 1.0, "second_opinion": 0.75}),
        Score(None, -1, {"second_opinion": 0.5}, "first"),
        Score(0.25, 2),
    ]
    assert (both.name, both.version, both.score_range) == ("told", "1+2", (0.0, 0.9)) and both.deterministic
    (group,) = score_groups(both, [GroupToScore(Prompt("1", "p"), ("a", "b", "c"))])
    assert group.classes_G.tolist() == [5, -1, 5]


@pytest.mark.parametrize("second", [RuntimeError("down"), [Score(0.1, 0)]])
def test_second_opinion_failure_is_warned_of_once_and_changes_no_score(
    second: list[Score] | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    both = SecondOpinionReward(Told(FIRST), Told(second))
    assert both.score(ITEMS) == FIRST and both.score(ITEMS) == FIRST
    assert len([record for record in caplog.records if "is missing" in record.message]) == 1


def test_second_opinion_is_planned_with_the_reward() -> None:
    second, item = HeuristicRewardSpec(), ScoreItem("37|b1>e4=", "RRRUUU")
    plans = [
        plan_reward(VerifierRewardSpec(), TASK, None, second),
        plan_reward(VerifierRewardSpec(), TASK),
        plan_reward(second, TASK),
    ]
    both, alone, opinion = (plan.build().score([item])[0] for plan in plans)
    assert (both.score, both.class_id) == (alone.score, alone.class_id)
    assert both.components == {"second_opinion": opinion.score}
    with pytest.raises(ConfigError, match=r"second_opinion.*reward"):
        plan_reward(second, TASK, None, HeuristicRewardSpec())
    with pytest.raises(ConfigError, match=r"/no\.py"):
        plan_reward(second, TASK, None, PythonRewardSpec(path="no.py:score"))


@pytest.mark.parametrize(
    ("second", "message"),
    [("other", None), ("overlapping", r"\b1 of 2\b.*\b2\b"), ("train", r"'train'.*'train'")],
)
def test_second_engagement_model_must_have_learnt_from_different_threads(
    second: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = {"train": {"a", "b"}, "other": {"c"}, "overlapping": {"b", "c"}}
    for name in threads:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")

    def card(path: Path) -> Any:
        data = SimpleNamespace(half="?", split_seed=0)
        return SimpleNamespace(name=path.name, version=path.name, clusters=threads[path.name], data=data)

    monkeypatch.setattr("polyray.shelf.preferences.reward_model.read_card", card)
    first, beside = (EngagementRewardSpec(path=str(tmp_path / name)) for name in ("train", second))
    whole = CompositeRewardSpec(parts=(CompositePartSpec(name="a", reward=first),))
    if message is None:
        assert plan_reward(whole, TASK, None, beside).second_opinion == beside
    else:
        with pytest.raises(ConfigError, match=message):
            plan_reward(whole, TASK, None, beside)
