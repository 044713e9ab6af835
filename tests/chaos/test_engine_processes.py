"""A whole run whose engine process is killed under a live worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polyray.config.run import TrainConfig
from polyray.launch.fleet import open_fleet
from polyray.launch.plan import plan_fleet
from polyray.rollout.watchdog import SHARED_MEMORY
from polyray.runs.jsonl import read_jsonl
from tests.conftest import marked_processes, run_training, session_mark

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS = 5
WAIT_S = 30.0


def test_worker_with_a_killed_engine_process_is_replaced_without_leftovers(
    ray_session: None, train_config: Callable[..., TrainConfig]
) -> None:
    config = train_config(
        "engine-process",
        rollout__engine="vllm_async",
        rollout__num_workers=1,
        delivery__mode="adapter",
        learner__steps=STEPS,
    )
    sockets = set(engine_directories())
    killed: list[int] = []
    replacements: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 600
        while len(read_jsonl(config.run_dir / "metrics.jsonl")) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in engine_cores():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        while not replacements and time.monotonic() < deadline:  # it ends with the run's coordinator
            replacements.extend(pid for pid in engine_cores() if pid not in killed)
            time.sleep(0.5)

    with open_fleet(plan_fleet(config), "engine-process") as fleet:
        first = fleet.pool.workers[0].name
        fleet.pool.wait_until_ready()
        thread = threading.Thread(target=kill)
        thread.start()
        paths = run_training(config, fleet)  # also checks that every group was consumed once
        thread.join()
        assert len(killed) == len(replacements) == 1
    assert [line["step"] for line in read_jsonl(paths.metrics)] == list(range(STEPS))
    (incident,) = read_jsonl(paths.incidents)
    assert incident["kind"] == "worker_replaced"
    assert f"rollout worker {first} was replaced by" in incident["message"]
    assert "EngineDeadError" in incident["message"]
    deadline = time.monotonic() + WAIT_S
    while (engine_cores() or set(engine_directories()) - sockets) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert engine_cores() == []
    assert set(engine_directories()) <= sockets


def engine_cores() -> list[int]:
    """vLLM's processes of this session that run a model."""
    return [
        pid
        for pid in marked_processes(session_mark())
        if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def engine_directories() -> list[Path]:
    """Directories with the sockets and adapters of engines."""
    return list(SHARED_MEMORY.glob("polyray-engine-*"))
