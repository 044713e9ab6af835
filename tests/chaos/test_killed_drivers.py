"""Runs with repeatedly killed drivers equal an unbroken one at S=0."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from tests.conftest import MARK, REPOSITORY_ROOT, command_lines, reproducible

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(2400)]
SEED = "POLYRAY_CHAOS_SEED"
"""Environment variable: the same steps as in an earlier test, which printed it."""
START_S = 600.0


def test_a_run_killed_at_three_random_steps_equals_an_unbroken_one(
    finished: RunPaths, varied_values: Callable[..., dict[str, Any]], tmp_path: Path, killed_marks: list[str]
) -> None:
    values = varied_values("killed-often", runs_dir=str(tmp_path / "runs"), rollout__num_workers=1)
    paths = RunPaths(tmp_path / "runs" / "killed-often")
    seed = int(os.environ.get(SEED, random.SystemRandom().randrange(10**6)))
    steps = sorted(random.Random(seed).sample(range(1, values["learner"]["steps"]), 3))
    print(f"{SEED}={seed}: killed after steps {steps}")
    for step in steps:
        mark = f"killed-often-{step}-{os.getpid()}"
        changed = last_change(paths.metrics)
        driver = start(tmp_path, values, mark)
        deadline = time.monotonic() + START_S
        while last_change(paths.metrics) == changed or len(read_jsonl(paths.metrics)) < step:
            assert driver.poll() is None and time.monotonic() < deadline, f"no step {step} in {START_S:g} s"
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        killed_marks.append(mark)
    mark = f"killed-often-last-{os.getpid()}"
    assert start(tmp_path, values, mark).wait(timeout=START_S) == 0
    assert command_lines(mark) == []
    assert reproducible(paths.metrics) == reproducible(finished.metrics)
    name = "adapter_model.safetensors"
    assert (paths.adapter / name).read_bytes() == (finished.adapter / name).read_bytes()


def start(tmp_path: Path, values: dict[str, Any], mark: str) -> subprocess.Popen[bytes]:
    """`polyray train FILE` as a person would."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**values, "ray": {"num_cpus": 8, "dashboard": False}}))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.train", str(file)],
        cwd=REPOSITORY_ROOT,
        env={**kept, "HF_HUB_OFFLINE": "1", MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last_change(path: Path) -> int:
    """Time of the last write to a file; 0 without any file."""
    return path.stat().st_mtime_ns if path.exists() else 0
