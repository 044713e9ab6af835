"""The model as a reward: which prompt, which class, empty and long completions, errors as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyray.rewards.base import ScoreItem
from polyray.shelf.preferences.reward_model import EngagementReward, build_engagement_reward
from polyray.types import WRONG_CLASS, Prompt


class Answers:
    """A task that knows the class of an answer by its first letter and fails on one word."""

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
def reward(model_dir: Path, known_encoder: None) -> EngagementReward:
    return build_engagement_reward(str(model_dir), Answers())  # type: ignore[arg-type]


def test_engagement_reward_has_the_scores_of_the_model(reward: EngagementReward) -> None:
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


def test_engagement_reward_depends_on_the_source_that_readers_saw(reward: EngagementReward) -> None:
    turns = (("system", "Be brief."), ("user", "first"), ("assistant", "yes"), ("user", "post"))
    messages = tuple({"role": role, "content": content} for role, content in turns)
    bare, source, chat, other = reward.score(
        [
            ScoreItem("post", "apple"),
            ScoreItem("Answer this: post", "apple", metadata={"source": "post"}),
            ScoreItem("user: post", "apple", messages=messages),  # type: ignore[arg-type]
            ScoreItem("Answer this: post", "apple"),
        ]
    )
    assert bare == source == chat
    assert other.score != bare.score


def test_engagement_reward_of_unusual_completions(reward: EngagementReward) -> None:
    texts = (" \n", "word " * 20, "choke", "a\ud800")
    wrong = ScoreItem("post", "apple", metadata={"source": 3})
    empty, long, choking, surrogate, sourceless = reward.score(
        [*(ScoreItem("post", t) for t in texts), wrong]
    )
    assert (empty.score, empty.class_id, empty.error) == (0.0, WRONG_CLASS, None)
    assert "raw" not in empty.components
    assert long.components["truncated"] == 1.0
    assert choking.score is None and "cannot judge" in (choking.error or "")
    assert surrogate.score is not None
    assert sourceless.score is None and 'metadata["source"] is 3' in (sourceless.error or "")
