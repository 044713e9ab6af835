"""The model as a reward: which prompt, which class, empty and long completions, errors as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyray.rewards.base import ScoreItem
from polyray.shelf.preferences.reward_model import EngagementReward, build_engagement_reward
from polyray.shelf.preferences.reward_model.run import RewardTrainingRun
from polyray.shelf.preferences.reward_model.training import run_reward_training
from polyray.types import WRONG_CLASS, Prompt
from tests.unit.shelf.preferences.reward_model.stand_ins import CPU, liking, reward_config, write_records


class Answers:
    """A task that knows the class of an answer by its first letter and chokes on one word."""

    def reward(self, prompt: Prompt, completion: str) -> float:
        return 0.0

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        if "choke" in completion:
            raise RuntimeError("no")
        return ord(completion[0])

    def partition(self, prompt: Prompt, completions: list[str]) -> list[int]:
        return [self.completion_class(prompt, text) for text in completions]

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return float(a != b)


@pytest.fixture
def reward(known_encoder: None, tmp_path: Path) -> EngagementReward:
    config = reward_config(write_records(tmp_path / "r.jsonl", liking), learner__steps=5)
    (tmp_path / "run").mkdir()
    run_reward_training(RewardTrainingRun(config, tmp_path / "run", CPU, 0, 1), lambda metrics: None)
    return build_engagement_reward(str(tmp_path / "run" / "model"), Answers())  # type: ignore[arg-type]


def test_scores_are_the_models(reward: EngagementReward) -> None:
    items = [ScoreItem("post", "apple pie"), ScoreItem("post", "berry pie")]
    scores = reward.score(items)
    raw = reward.model.raw(["post", "post"], ["apple pie", "berry pie"])
    for score, value, class_id in zip(scores, raw, (97, 98), strict=True):
        assert score.error is None
        assert score.components == {"raw": value, "probability": score.score, "truncated": 0.0}
        assert score.class_id == class_id
        assert score.score is not None and 0 < score.score < 1
    assert (reward.name, reward.inline, reward.deterministic) == ("engagement/model", False, True)
    assert reward.version == reward.model.version
    assert reward.group_classes(items, scores) == [97, 98]
    np.testing.assert_array_equal(reward.distances(items, scores), [[0, 1], [1, 0]])
    assert reward.score([]) == []


def test_score_depends_on_the_source_that_readers_saw(reward: EngagementReward) -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "post"},
    )
    bare, source, chat = reward.score(
        [
            ScoreItem("post", "apple"),
            ScoreItem("Answer this: post", "apple", metadata={"source": "post"}),
            ScoreItem("user: post", "apple", messages=messages),  # type: ignore[arg-type]
        ]
    )
    assert bare == source == chat
    assert reward.score([ScoreItem("Answer this: post", "apple")])[0].score != bare.score


def test_empty_long_and_impossible_completions(reward: EngagementReward) -> None:
    items = [
        ScoreItem("post", " \n"),
        ScoreItem("post", "word " * 20),
        ScoreItem("post", "choke"),
        ScoreItem("post", "apple", metadata={"source": 3}),
        ScoreItem("post", "a\ud800"),
    ]
    empty, long, choking, wrong, surrogate = reward.score(items)
    assert (empty.score, empty.class_id, empty.error) == (0.0, WRONG_CLASS, None)
    assert "raw" not in empty.components
    assert long.components["truncated"] == 1.0
    assert choking.score is None and "cannot judge" in (choking.error or "")
    assert wrong.score is None and 'metadata["source"] is 3' in (wrong.error or "")
    assert surrogate.score is not None
