"""Every reward is planned and built from its configuration, declares its range, and a failure is never 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.reward import DiversitySpec, PythonRewardSpec, VerifierRewardSpec
from polyray.config.run import TrainConfig
from polyray.config.task import CodeSpec, HiddenTrapGridSpec, JsonlSpec
from polyray.errors import ConfigError, RewardError
from polyray.extensions import names
from polyray.rewards import REWARDS, RewardPlan, plan_reward
from polyray.rewards.base import ScoreItem
from polyray.tasks import build_task
from polyray.types import WRONG_CLASS

GRID = HiddenTrapGridSpec(trap_probability=0.0)
ITEM = ScoreItem("Should answers cite sources?", "Yes, good answers cite the sources that they use.")
CLOSED = "http://127.0.0.1:9"
CLIENT = {"max_attempts": 1, "deadline_s": 5}
JUDGE = {"provider": "openai", "model": "m", "base_url": CLOSED, "max_attempts": 1, "max_retries": 0}
PARTS = [
    {"name": "a", "reward": {"type": "heuristic"}},
    {"name": "b", "required": False, "reward": {"type": "http", "url": CLOSED, "client": CLIENT}},
]
SPECS: dict[str, tuple[dict[str, Any], bool]] = {
    "verifier": ({}, True),
    "python": ({"path": "mine.py:score"}, False),
    "heuristic": ({}, True),
    "judge": ({"judge": JUDGE, "cache_path": "answers.jsonl"}, False),
    "http": ({"url": CLOSED, "client": CLIENT}, False),
    "composite": ({"parts": PARTS}, False),
}
"""Type -> settings, and whether an equal item always gets an equal score."""


@pytest.fixture(autouse=True)
def own_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text("def score(items):\n    return [0.5 for _ in items]\n")
    return file


def config_of(reward: dict[str, Any], **values: Any) -> TrainConfig:
    return build_config(
        TrainConfig, {"name": "x", "task": {"type": "social_replies"}, "reward": reward, **values}
    )


@pytest.mark.parametrize("kind", SPECS)
def test_reward_keeps_to_its_range_and_scores_no_failure_as_zero(kind: str) -> None:
    settings, deterministic = SPECS[kind]
    config = config_of({"type": kind, **settings})
    reward = plan_reward(config.reward, config.task).build()
    low, high = reward.score_range
    assert 0 <= low < high <= 1
    assert reward.deterministic == deterministic
    assert reward.name.startswith(kind) and reward.version
    (score,) = reward.score([ITEM])
    if score.score is None:
        assert kind in ("judge", "http") and score.error and score.class_id == WRONG_CLASS
    else:
        assert low <= score.score <= high and score.error is None
    assert reward.score([]) == []
    if kind not in ("judge", "http"):  # a prompt that the task cannot judge
        (score,) = plan_reward(config.reward, GRID).build().score([ScoreItem("no board", "RRUU")])
        assert (score.score, score.class_id) == (None, WRONG_CLASS) and score.error


def test_reward_types_are_covered_here_or_have_a_file_of_their_own() -> None:
    assert {*REWARDS, *names("reward")} == {*SPECS, "sandbox", "engagement", "callable"}


def test_reward_range_that_its_author_promises_is_kept(own_reward: Path) -> None:
    own_reward.write_text("def score(items):\n    return [0.1, 0.5]\n")
    values = {"type": "python", "path": "mine.py:score", "score_range": [0.2, 0.6], "deterministic": True}
    config = config_of(values)
    reward = plan_reward(config.reward, config.task).build()
    assert reward.score_range == (0.2, 0.6) and reward.deterministic
    low, inside = reward.score([ITEM, ITEM])
    assert low.score is None and "[0.2, 0.6]" in str(low.error)
    assert inside.score == 0.5
    with pytest.raises(ConfigError, match=r"score_range=\[0\.5, 2\.0\]"):
        config_of(values | {"score_range": [0.5, 2]})


def test_verifier_plan_agrees_with_the_task_and_its_version() -> None:
    reward = plan_reward(VerifierRewardSpec(), GRID).build()
    right, wrong = reward.score([ScoreItem("37|b1>e4=", "RRRUUU"), ScoreItem("37|b1>e4=", "RRR")])
    prompt = ScoreItem("37|b1>e4=", "").as_prompt()
    assert (right.score, right.class_id) == (1.0, build_task(GRID).completion_class(prompt, "RRRUUU"))
    assert (wrong.score, wrong.class_id) == (0.0, WRONG_CLASS)
    assert reward.inline and reward.name == "verifier/hidden_trap_grid"
    others = [plan_reward(VerifierRewardSpec(), spec).build() for spec in (GRID, HiddenTrapGridSpec())]
    assert reward.version == others[0].version != others[1].version


def test_python_plan_has_another_version_for_another_task_or_range() -> None:
    spec = PythonRewardSpec(path="mine.py:score")
    halved = PythonRewardSpec(path="mine.py:score", score_range=(0.0, 0.5))
    versions = [
        plan_reward(reward, task).build().version
        for reward, task in ((spec, GRID), (halved, GRID), (spec, HiddenTrapGridSpec()), (spec, GRID))
    ]
    assert len(set(versions[:3])) == 3 and versions[3] == versions[0]


def test_python_plan_runs_from_the_text_read_on_the_driver(own_reward: Path) -> None:
    spec = PythonRewardSpec(path="mine.py:score")
    plan = plan_reward(spec, GRID)
    own_reward.unlink()
    reward = plan.build()
    items = [ScoreItem("37|b1>e4=", "RRRUUU"), ScoreItem("37|b1>e4=", "UUURRR")]
    scores = reward.score(items)
    assert [score.score for score in scores] == [0.5, 0.5] and not reward.inline
    assert reward.distances(items, scores) == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(RewardError, match=r"reward\.path=.* source"):
        RewardPlan(spec, GRID, DiversitySpec(), {}).build()


def test_plan_gives_replicas_absolute_paths_and_the_users_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# mine\nMoron\nshut  up\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    rewards: list[dict[str, Any]] = [
        {"type": "heuristic", "unsafe_words": "words.txt", "encoder": "model"},
        {"type": "engagement", "path": "model"},
        {"type": "judge", "judge": JUDGE, "cache_path": "c/answers.jsonl"},
        {"type": "heuristic", "encoder": "some/hub-name"},
    ]
    parts = [{"name": name, "reward": reward} for name, reward in zip("abcd", rewards, strict=True)]
    config = config_of({"type": "composite", "parts": parts}, diversity={"encoder": "model"})
    plan = plan_reward(config.reward, config.task, config.diversity)
    whole: Any = plan.reward
    a, b, c, d = (part.reward for part in whole.parts)
    assert a.encoder == plan.diversity.encoder == b.path == f"{tmp_path}/model"
    assert c.cache_path == f"{tmp_path}/c/answers.jsonl" and d.encoder == "some/hub-name"
    assert plan.sources[f"{tmp_path}/words.txt"] == "moron\nshut up" and "builtin" in plan.sources
    tasks = [JsonlSpec(path="a.jsonl", held_out_path="b/c.jsonl"), GRID, CodeSpec(train_path="b/mbpp.jsonl")]
    assert [plan_reward(VerifierRewardSpec(), task).task for task in tasks] == [
        JsonlSpec(path=f"{tmp_path}/a.jsonl", held_out_path=f"{tmp_path}/b/c.jsonl"),
        GRID,
        CodeSpec(train_path=f"{tmp_path}/b/mbpp.jsonl"),
    ]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"type": "engagement", "path": "runs/none"}, "engagement model"),
        ({"type": "heuristic", "unsafe_words": "none.txt"}, "/none.txt"),
        ({"type": "python", "path": "none.py:score"}, r"none\.py"),
        ({"type": "http", "url": CLOSED, "token_env": "NO_TOKEN"}, "NO_TOKEN"),
        ({"type": "http", "url": CLOSED, "client": {"deadline_s": 50}}, "request_timeout_s=60"),
    ],
)
def test_plan_error_of_every_replica_is_raised_on_the_driver(reward: dict[str, Any], message: str) -> None:
    service = {"request_timeout_s": 60}
    nested = {"type": "composite", "parts": [{"name": "a", "reward": reward}], "service": service}
    for values in (reward, nested):
        config = config_of(values)
        with pytest.raises(ConfigError, match=message):
            plan_reward(config.reward, config.task)
