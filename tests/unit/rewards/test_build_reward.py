"""build_reward: the reward that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.config.reward import PythonRewardSpec, VerifierRewardSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, RewardError
from polyray.rewards import build_reward, reward_source
from polyray.rewards.base import ScoreItem
from polyray.tasks import build_task
from polyray.types import WRONG_CLASS

TASK = HiddenTrapGridSpec(trap_probability=0.0)


def test_the_verifier_agrees_with_the_task():
    reward = build_reward(VerifierRewardSpec(), TASK, source=None)
    right, wrong = reward.score([ScoreItem("37|b1>e4=", "RRRUUU"), ScoreItem("37|b1>e4=", "RRR")])
    prompt = ScoreItem("37|b1>e4=", "").as_prompt()
    assert (right.score, right.class_id) == (1.0, build_task(TASK).completion_class(prompt, "RRRUUU"))
    assert (wrong.score, wrong.class_id) == (0.0, WRONG_CLASS)
    assert reward.inline and reward.name == "verifier/hidden_trap_grid"


def test_the_version_follows_the_task():
    specs = [TASK, HiddenTrapGridSpec(trap_probability=0.1), TASK]
    versions = [build_reward(VerifierRewardSpec(), spec, None).version for spec in specs]
    assert versions[0] == versions[2] != versions[1]


def test_a_python_reward_runs_from_the_text_read_on_the_driver(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("def score(items):\n    return [0.25 for _ in items]\n")
    spec = PythonRewardSpec(path=f"{file}:score")
    source = reward_source(spec)
    file.unlink()
    reward = build_reward(spec, TASK, source, "task_class")
    items = [ScoreItem("37|b1>e4=", "RRRUUU"), ScoreItem("37|b1>e4=", "UUURRR")]
    scores = reward.score(items)
    assert [score.score for score in scores] == [0.25, 0.25]
    assert reward.distances(items, scores) == [[0.0, 1.0], [1.0, 0.0]]
    assert not reward.inline


def test_sources_are_asked_for_where_they_are_needed(tmp_path: Path):
    assert reward_source(VerifierRewardSpec()) is None
    spec = PythonRewardSpec(path=f"{tmp_path}/none.py:score")
    with pytest.raises(ConfigError, match="no such file"):
        reward_source(spec)
    with pytest.raises(RewardError, match="came without its source"):
        build_reward(spec, TASK, None)
