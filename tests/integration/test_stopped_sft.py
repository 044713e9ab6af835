"""SFT on two ranks, ended by a signal and resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from polyray.config.loader import build_config
from polyray.config.run import SftConfig
from polyray.errors import Stopped
from polyray.launch.plan import plan_sft
from polyray.launch.sft import supervise
from polyray.runs.jsonl import read_jsonl
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory, RunPaths
from tests.conftest import reproducible
from tests.unit.tiny_policy import save_base

STEPS = 400
START_S = 600.0


@pytest.mark.slow  # three worker groups start
def test_stopped_run_resumes_to_the_same_bytes(ray_session: None, tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    paths = RunPaths(tmp_path / "runs" / "stopped")
    threading.Thread(target=_end_after_two_steps, args=(paths.metrics,), daemon=True).start()
    with pytest.raises(Stopped, match=rf"^SIGTERM after step \d+ of {STEPS}: .*checkpoint"):
        _supervise(tmp_path, "stopped")
    done = len(read_jsonl(paths.metrics))
    assert 2 <= done < STEPS
    assert [path.name for path in paths.checkpoints.iterdir()] == [f"step-{done:06d}"]
    assert not paths.adapter.exists() and not paths.done.exists()

    assert _supervise(tmp_path, "stopped") == _supervise(tmp_path, "unbroken")
    assert reproducible(paths.metrics) == reproducible(tmp_path / "runs" / "unbroken" / "metrics.jsonl")


def _end_after_two_steps(metrics: Path) -> None:
    deadline = time.monotonic() + START_S
    while len(read_jsonl(metrics)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    if len(read_jsonl(metrics)) >= 2:  # else nobody waits for a signal any more
        os.kill(os.getpid(), signal.SIGTERM)


def _supervise(tmp_path: Path, name: str) -> bytes:
    """Adapter of a run without checkpoints before its end."""
    values = {
        "name": name,
        "runs_dir": str(tmp_path / "runs"),
        "model": {"path": str(tmp_path / "base"), "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "learner": {"steps": STEPS, "checkpoint_every": 1000, "num_threads": 1, "num_workers": 2},
        "demonstrations_per_step": 4,
        "dynamics": None,
    }
    with RunDirectory.open(build_config(SftConfig, values)) as directory, ProgressDisplay() as display:
        supervise(plan_sft(build_config(SftConfig, values)), directory, display)
        return (directory.paths.adapter / "adapter_model.safetensors").read_bytes()
