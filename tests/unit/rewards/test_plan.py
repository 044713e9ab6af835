"""plan_reward and RewardPlan.build: the reward that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.config.reward import DiversitySpec, PythonRewardSpec, VerifierRewardSpec
from polyray.config.task import CodeSpec, HiddenTrapGridSpec, JsonlSpec, TaskSpec
from polyray.errors import MissingFile, RewardError
from polyray.rewards import RewardPlan, plan_reward
from polyray.rewards.base import ScoreItem
from polyray.tasks import build_task
from polyray.types import WRONG_CLASS

TASK = HiddenTrapGridSpec(trap_probability=0.0)


def test_the_verifier_agrees_with_the_task():
    reward = plan_reward(VerifierRewardSpec(), TASK).build()
    right, wrong = reward.score([ScoreItem("37|b1>e4=", "RRRUUU"), ScoreItem("37|b1>e4=", "RRR")])
    prompt = ScoreItem("37|b1>e4=", "").as_prompt()
    assert (right.score, right.class_id) == (1.0, build_task(TASK).completion_class(prompt, "RRRUUU"))
    assert (wrong.score, wrong.class_id) == (0.0, WRONG_CLASS)
    assert reward.inline and reward.name == "verifier/hidden_trap_grid"


def test_the_version_follows_the_task():
    specs = [TASK, HiddenTrapGridSpec(trap_probability=0.1), TASK]
    versions = [plan_reward(VerifierRewardSpec(), spec).build().version for spec in specs]
    assert versions[0] == versions[2] != versions[1]


def test_a_python_reward_runs_from_the_text_read_on_the_driver(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("def score(items):\n    return [0.25 for _ in items]\n")
    spec = PythonRewardSpec(path=f"{file}:score")
    plan = plan_reward(spec, TASK)
    file.unlink()
    reward = plan.build()
    items = [ScoreItem("37|b1>e4=", "RRRUUU"), ScoreItem("37|b1>e4=", "UUURRR")]
    scores = reward.score(items)
    assert [score.score for score in scores] == [0.25, 0.25]
    assert reward.distances(items, scores) == [[0.0, 1.0], [1.0, 0.0]]
    assert not reward.inline


def test_missing_source_of_a_reward_is_refused(tmp_path: Path):
    assert plan_reward(VerifierRewardSpec(), TASK).sources == {}
    spec = PythonRewardSpec(path=f"{tmp_path}/none.py:score")
    with pytest.raises(MissingFile, match=r"none\.py"):
        plan_reward(spec, TASK)
    with pytest.raises(RewardError, match=r"reward\.path=.* source"):
        RewardPlan(spec, TASK, DiversitySpec(), {}).build()


def test_replicas_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def moved(task: TaskSpec) -> TaskSpec:
        return plan_reward(VerifierRewardSpec(), task).task

    rows = moved(JsonlSpec(path="a.jsonl", held_out_path="b/c.jsonl"))
    assert rows == JsonlSpec(path=f"{tmp_path}/a.jsonl", held_out_path=f"{tmp_path}/b/c.jsonl")
    assert moved(TASK) is TASK
    code = moved(CodeSpec(path="builtin", train_path="b/mbpp.jsonl"))
    assert code == CodeSpec(path="builtin", train_path=f"{tmp_path}/b/mbpp.jsonl")
