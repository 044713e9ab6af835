"""Command lines of jobs: one-line errors, exit code 2, killed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.cli.train import main
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError, DataError, ResourceError
from polyray.launch.fleet import Fleet
from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from tests.conftest import MARK, REPOSITORY_ROOT, command_lines, reproducible, run_training

MakeValues = Callable[..., dict[str, Any]]


def command(tmp_path: Path, values: dict[str, Any], *extra: str) -> list[str]:
    file = tmp_path / f"{values['name']}.yaml"
    file.write_text(yaml.safe_dump({**values, "ray": {"num_cpus": 8, "dashboard": False}}))
    return [sys.executable, "-m", "jobs.train", str(file), *extra]


def environment(mark: str = "") -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "HF_HUB_OFFLINE": "1", MARK: mark}


def start(tmp_path: Path, values: dict[str, Any]) -> None:
    """Run `polyray train FILE` in this process; errors are raised."""
    assert main(command(tmp_path, values)[3:]) == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rollout__group_size": 3, "algorithm": {"type": "polychromic", "objective": "cluster",
          "diversity_weight": 1.0, "set_size": 3}}, "group_size .*set_size .*4.* 3"),
        ({"learner__stepz": 3}, "'learner.stepz'; did you mean 'learner.steps'"),
        ({"model__path": "/nowhere/model"}, "/nowhere/model"),
        ({"model__path": "tests"}, "model.path='.*/tests' .*config.json"),
        ({"model__warm_start": "tests"}, "/tests .*adapter_config.json"),
        ({"reward": {"type": "python", "path": "nowhere.py:score"}}, "nowhere.py"),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(
    train_values: MakeValues, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    values = train_values("mistake", runs_dir=str(tmp_path / "runs"), **changes)
    with pytest.raises(ConfigError, match=expected):
        start(tmp_path, values)
    assert not (tmp_path / "runs").exists()


def test_adapter_of_another_base(train_values: MakeValues, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (adapter / "polyray.json").write_text(json.dumps({"base_sha256": "f" * 64, "adapter_sha256": "0" * 64}))
    values = train_values("other-base", runs_dir=str(tmp_path / "runs"), model__warm_start=str(adapter))
    with pytest.raises(ConfigError, match="ffffffffffff"):
        start(tmp_path, values)


def test_broken_line_of_a_task_file_is_named(train_values: MakeValues, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1", "reference": "2"}\n{"prompt": \n')
    values = train_values(
        "broken", runs_dir=str(tmp_path / "runs"), task={"type": "jsonl", "path": str(prompts)}
    )
    with pytest.raises(DataError, match=f"{prompts}.{{0,6}}2"):
        start(tmp_path, values)


def test_mistake_leaves_an_existing_run_untouched(train_values: MakeValues, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "old"
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text('{"step": 0}\n')
    (run_dir / "config.json").write_text('{"name": "old"}')
    with pytest.raises(ConfigError, match="/runs/old "):
        start(tmp_path, train_values("old", runs_dir=str(tmp_path / "runs")))
    assert (run_dir / "metrics.jsonl").read_text() == '{"step": 0}\n'
    assert (run_dir / "config.json").read_text() == '{"name": "old"}'


def test_too_few_cpus_are_named_before_the_start(
    ray_session: None, train_values: MakeValues, tmp_path: Path
) -> None:
    values = train_values("big", runs_dir=str(tmp_path / "runs"), rollout__num_workers=40)
    with pytest.raises(ResourceError, match=r"41\.5 CPUs .* 8; .*ray\.num_cpus"):
        start(tmp_path, values)


@pytest.fixture(scope="session")  # else the fixtures of the session would come first
def killed_run(
    varied_values: MakeValues, tmp_path_factory: pytest.TempPathFactory, killed_marks: list[str]
) -> Iterator[Callable[[], RunPaths]]:
    """Call that waits for the kill of a driver after three steps.

    The driver starts while the engines of the session do.
    """
    tmp_path = tmp_path_factory.mktemp("killed")
    mark = f"killed-{os.getpid()}"
    values = varied_values("killed", rollout__num_workers=1, runs_dir=str(tmp_path / "runs"))
    paths = RunPaths(tmp_path / "runs" / "killed")
    driver = subprocess.Popen(
        command(tmp_path, values),
        cwd=REPOSITORY_ROOT,
        env=environment(mark),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killed_marks.append(mark)

    def kill() -> int:
        try:
            wait_for(lambda: len(read_jsonl(paths.metrics)) >= 3, 300)
        finally:
            driver.send_signal(signal.SIGKILL)
        return driver.wait()

    def wait() -> RunPaths:
        assert killing.result() == -signal.SIGKILL
        wait_for(lambda: not any("RayTrainWorker" in line for line in command_lines(mark)), 60)
        return paths

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        yield wait


def test_killed_run_resumes_to_the_same_bytes(
    killed_run: Callable[[], RunPaths],
    finished: RunPaths,
    varied_config: Callable[..., TrainConfig],
    varied_fleet: Fleet,
) -> None:
    """The engines of the session outlive the driver."""
    killed = killed_run()
    assert 3 <= len(read_jsonl(killed.metrics)) < 6 and not killed.done.exists()
    resumed = run_training(varied_config("killed", runs_dir=str(killed.root.parent)), varied_fleet)
    assert resumed.done.exists()
    assert reproducible(resumed.metrics) == reproducible(finished.metrics)
    name = "adapter_model.safetensors"
    assert (resumed.adapter / name).read_bytes() == (finished.adapter / name).read_bytes()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
