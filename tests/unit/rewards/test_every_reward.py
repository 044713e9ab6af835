"""Every reward is built from its configuration, declares its range, and a failure is an error, never 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.reward import SandboxRewardSpec
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError
from polyray.extensions import names
from polyray.rewards import REWARDS, plan_reward
from polyray.rewards.base import ScoreItem
from polyray.types import WRONG_CLASS

REPLIES = {"type": "social_replies"}
ITEM = ScoreItem("Should answers cite sources?", "Yes, good answers cite the sources that they use.")
NOBODY = "http://127.0.0.1:9"
CLIENT = {"max_attempts": 1, "deadline_s": 5}
JUDGE = {"provider": "openai", "model": "m", "base_url": NOBODY, "max_attempts": 1, "max_retries": 0}

SPECS: dict[str, tuple[dict[str, Any], bool]] = {
    "verifier": ({}, True),
    "python": ({"path": "FILE:score"}, False),
    "heuristic": ({}, True),
    "judge": ({"judge": JUDGE, "cache_path": "CACHE"}, False),
    "http": ({"url": NOBODY, "client": CLIENT}, False),
    "composite": (
        {
            "parts": [
                {"name": "a", "reward": {"type": "heuristic"}},
                {"name": "b", "required": False, "reward": {"type": "http", "url": NOBODY, "client": CLIENT}},
            ]
        },
        False,
    ),
}
"""Type -> settings, and whether an equal item always gets an equal score."""


def spec(kind: str, tmp_path: Path) -> Any:
    settings = dict(SPECS[kind][0])
    if kind == "python":
        file = tmp_path / "mine.py"
        file.write_text("def score(items):\n    return [0.5 for _ in items]\n")
        settings["path"] = f"{file}:score"
    if kind == "judge":
        settings["cache_path"] = str(tmp_path / "answers.jsonl")
    values = {"name": "x", "task": REPLIES, "reward": {"type": kind, **settings}}
    return build_config(TrainConfig, values)


@pytest.mark.parametrize("kind", SPECS)
def test_reward_is_built_and_keeps_to_its_range(kind: str, tmp_path: Path) -> None:
    config = spec(kind, tmp_path)
    reward = plan_reward(config.reward, config.task).build()
    low, high = reward.score_range
    assert 0 <= low < high <= 1
    assert reward.deterministic == SPECS[kind][1]
    assert reward.name.startswith(kind) and reward.version
    (score,) = reward.score([ITEM])
    if score.score is None:
        assert kind in ("judge", "http") and score.error and score.class_id == WRONG_CLASS
    else:
        assert low <= score.score <= high and score.error is None
    assert reward.score([]) == []


@pytest.mark.parametrize("kind", ["verifier", "heuristic", "python", "composite"])
def test_a_prompt_that_its_task_cannot_judge_is_an_error_and_never_zero(kind: str, tmp_path: Path) -> None:
    config = spec(kind, tmp_path)
    grid = build_config(TrainConfig, {"name": "x"}).task
    (score,) = plan_reward(config.reward, grid).build().score([ScoreItem("no board", "RRUU")])
    assert (score.score, score.class_id) == (None, WRONG_CLASS) and score.error


def test_every_type_is_covered_here_or_has_a_file_of_its_own() -> None:
    assert {*REWARDS, *names("reward")} == {*SPECS, "sandbox", "engagement", "callable"}
    assert SandboxRewardSpec(allow_code_execution=True).type == "sandbox"


def test_a_range_that_its_author_promises_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(items):\n    return [0.1, 0.5]\n")
    values = {"type": "python", "path": f"{file}:score", "score_range": [0.2, 0.6], "deterministic": True}
    config = build_config(TrainConfig, {"name": "x", "task": REPLIES, "reward": values})
    reward = plan_reward(config.reward, config.task).build()
    assert reward.score_range == (0.2, 0.6) and reward.deterministic
    low, inside = reward.score([ITEM, ITEM])
    assert low.score is None and "[0.2, 0.6]" in str(low.error)
    assert inside.score == 0.5
    with pytest.raises(ConfigError, match=r"score_range=\[0\.5, 2\.0\]"):
        build_config(TrainConfig, {"name": "x", "reward": values | {"score_range": [0.5, 2]}})


def test_replicas_get_absolute_paths_and_the_users_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("# mine\nMoron\nshut  up\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    parts = [
        {"name": "a", "reward": {"type": "heuristic", "unsafe_words": "words.txt", "encoder": "model"}},
        {"name": "b", "reward": {"type": "engagement", "path": "model"}},
        {"name": "c", "reward": {"type": "judge", "judge": JUDGE, "cache_path": "c/answers.jsonl"}},
        {"name": "d", "reward": {"type": "heuristic", "encoder": "some/hub-name"}},
    ]
    values = {"name": "x", "reward": {"type": "composite", "parts": parts}, "diversity": {"encoder": "model"}}
    config = build_config(TrainConfig, values)
    plan = plan_reward(config.reward, config.task, config.diversity)
    whole: Any = plan.reward
    a, b, c, d = (part.reward for part in whole.parts)
    assert a.encoder == plan.diversity.encoder == b.path == f"{tmp_path}/model"
    assert c.cache_path == f"{tmp_path}/c/answers.jsonl" and d.encoder == "some/hub-name"
    assert plan.sources[f"{tmp_path}/words.txt"] == "moron\nshut up" and "builtin" in plan.sources


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            {"type": "engagement", "path": "runs/none"},
            "engagement model",
        ),
        (
            {"type": "heuristic", "unsafe_words": "none.txt"},
            "/none.txt",
        ),
        ({"type": "http", "url": NOBODY, "token_env": "NO_TOKEN"}, "NO_TOKEN"),
        ({"type": "http", "url": NOBODY, "client": {"deadline_s": 50}}, "request_timeout_s=60"),
    ],
)
def test_error_of_every_replica_is_raised_on_the_driver(reward: dict[str, Any], message: str) -> None:
    nested = {
        "type": "composite",
        "parts": [{"name": "a", "reward": reward}],
        "service": {"request_timeout_s": 60},
    }
    for values in (reward, nested):
        config = build_config(TrainConfig, {"name": "x", "reward": values})
        with pytest.raises(ConfigError, match=message):
            plan_reward(config.reward, config.task)
