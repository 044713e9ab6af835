"""The README's "Your own task" as a reader does it: its files in a fresh directory, its commands, relative paths."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyray.config.loader import load_config
from polyray.config.paths import relative_to
from polyray.config.run import TrainConfig
from polyray.rewards import plan_reward
from polyray.rewards.base import ScoreItem
from polyray.runs.jsonl import read_jsonl
from tests.conftest import PRETRAIN_STEPS, REPOSITORY_ROOT

SMALLER = {
    "jobs.pretrain": [f"steps={PRETRAIN_STEPS}", "batch_rows=64", "num_threads=1"],
    "jobs.train": ["learner.steps=2", "learner.num_threads=1", "reward.service.port=0"],
    "jobs.report": [],
}
"""Additions to the printed commands: fewer steps, and a port that is free beside other tests."""


def section() -> str:
    readme = (REPOSITORY_ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition("## Your own task\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def printed_commands() -> Iterator[list[str]]:
    for block in re.findall(r"```bash\n(.*?)```", section(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("python -m "):
                yield shlex.split(line)[2:]


@pytest.fixture
def directory(tmp_path: Path, model_cache: Path) -> Path:
    """Fresh but for the README's files; the home beside it has the session's model where jobs.pretrain puts it."""
    found = tmp_path / "my-work"
    found.mkdir()
    for name in ("my_prompts.jsonl", "my_reward.py", "my_task.yaml"):
        block = re.search(rf"```\w+ {re.escape(name)}\n(.*?)```", section(), re.DOTALL)
        assert block, f"README.md has no block {name}"
        (found / name).write_text(block[1], encoding="utf-8")
    cache = tmp_path / "home" / ".cache"
    cache.mkdir(parents=True)
    (cache / "polyray").symlink_to(model_cache)
    return found


def test_readme_own_task_runs_as_printed_in_a_fresh_directory(directory: Path) -> None:
    environment = {**os.environ, "HOME": str(directory.parent / "home"), "PYTHONPATH": str(REPOSITORY_ROOT)}
    commands = list(printed_commands())
    assert [words[0] for words in commands] == list(SMALLER)
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", *words, *SMALLER[words[0]]],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    run = directory / "runs" / "my-task"
    assert (run / "report.html").is_file() and (run / "adapter" / "adapter_config.json").is_file()
    metrics, rollouts = read_jsonl(run / "metrics.jsonl"), read_jsonl(run / "rollouts.jsonl")
    assert [line["unscored"] for line in metrics] == [0, 0]
    with relative_to(str(directory)):
        config = load_config(TrainConfig, "my_task.yaml")
    reward = plan_reward(config.reward, config.task).build()
    for line in rollouts:
        items = [
            ScoreItem(line["prompt"], completion["text"], line["prompt"][3:-1])
            for completion in line["completions"]
        ]
        expected = [score.score for score in reward.score(items)]
        assert [completion["reward"] for completion in line["completions"]] == pytest.approx(expected)
