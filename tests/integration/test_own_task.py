"""The README's "Your own task", trained: the three files as a reader would copy them, for two steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.fleet import Fleet
from jobs.train import check_inputs, train
from polyray.config.loader import load_config
from polyray.config.run import TrainConfig
from polyray.observability.jsonl import read_jsonl
from polyray.observability.progress import ProgressDisplay
from polyray.observability.run_directory import RunDirectory
from polyray.rewards import plan_reward
from polyray.rewards.base import ScoreItem
from services.reward.run import start_reward_service, stop_reward_service
from tests.conftest import REPOSITORY_ROOT


@pytest.fixture
def config(tmp_path: Path, model_cache: Path) -> TrainConfig:
    """The README's run, its files written where a reader would have put them."""
    readme = (REPOSITORY_ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("my_prompts.jsonl", "my_reward.py", "my_task.yaml"):
        block = re.search(rf"```\w+ {re.escape(name)}\n(.*?)```", readme, re.DOTALL)
        assert block, f"README.md has no block {name}"
        (tmp_path / name).write_text(block[1], encoding="utf-8")
    overrides = [
        f"runs_dir={tmp_path / 'runs'}",
        f"task.path={tmp_path / 'my_prompts.jsonl'}",
        f"reward.path={tmp_path / 'my_reward.py'}:score",
        "reward.service.port=0",
        f"model.cache_dir={model_cache}",
        "learner.steps=2",
        "learner.num_threads=1",
    ]
    return load_config(TrainConfig, tmp_path / "my_task.yaml", overrides)


@pytest.fixture
def own_fleet(fleet: Fleet, config: TrainConfig) -> Iterator[Fleet]:
    """The session's engines with the reader's reward."""
    plan = plan_reward(config.reward, config.task, config.diversity)
    address = start_reward_service("own-task", plan)
    yield Fleet(fleet.pool, address)
    stop_reward_service("own-task")


def test_readers_own_task_trains_on_the_readers_own_reward(config: TrainConfig, own_fleet: Fleet) -> None:
    check_inputs(config)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        train(config, directory, own_fleet, display)
        metrics, rollouts = read_jsonl(directory.paths.metrics), read_jsonl(directory.paths.rollouts)
    assert [line["unscored"] for line in metrics] == [0, 0]
    reward = plan_reward(config.reward, config.task).build()
    for line in rollouts:
        items = [
            ScoreItem(line["prompt"], completion["text"], line["prompt"][3:-1])
            for completion in line["completions"]
        ]
        expected = [score.score for score in reward.score(items)]
        assert [completion["reward"] for completion in line["completions"]] == pytest.approx(expected)
