"""Engines on one GPU start one after another; other engines do not wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.rollout import vllm_build, vllm_engine
from polyray.rollout.engine import EngineSettings
from polyray.rollout.vllm_engine import VllmEngine, build_llm, gpu_startup_lock
from polyray.rollout.watchdog import MARK

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT_S = 5.0
SHARE = RolloutSpec(num_workers=2, gpus_per_worker=0.5, gpu_memory_utilization=0.45)
WHOLE = RolloutSpec(num_workers=2, gpus_per_worker=1)


def test_second_engine_waits_until_the_first_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "3")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    events: list[str] = []

    def start() -> None:
        with gpu_startup_lock(SHARE):
            events.append("second")

    second = threading.Thread(target=start)
    with gpu_startup_lock(SHARE):
        second.start()
        second.join(0.1)
        assert second.is_alive()
        events.append("first")
        monkeypatch.setenv(VISIBLE, "GPU-4/a")
        with gpu_startup_lock(SHARE):
            events.append("on another GPU")
        with gpu_startup_lock(WHOLE), gpu_startup_lock(RolloutSpec()):
            events.append("alone on its GPU, and on none")
    second.join(WAIT_S)
    with pytest.raises(MemoryError), gpu_startup_lock(SHARE):
        raise MemoryError
    with gpu_startup_lock(SHARE):
        pass  # a start that fails ends its turn
    assert events == ["first", "on another GPU", "alone on its GPU, and on none", "second"]


def test_engine_that_fails_to_start_does_so_in_its_turn_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def turn(rollout: RolloutSpec) -> Iterator[None]:
        assert rollout is spec
        events.append("turn begins")
        yield

    def fails(**arguments: Any) -> None:
        assert Path(os.environ["VLLM_RPC_BASE_PATH"]).is_dir() and os.environ[MARK]
        events.append(f"started with {arguments['distributed_executor_backend']}")
        raise MemoryError

    def fails_in_process(**arguments: Any) -> None:
        events.append("started in this process")
        raise MemoryError

    spec = SHARE
    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    monkeypatch.setattr(vllm_engine, "gpu_startup_lock", turn)
    monkeypatch.setattr(vllm_engine, "import_vllm", lambda spec: fails_in_process)
    with pytest.raises(MemoryError):
        build_llm({}, spec)
    spec = SHARE.model_copy(update={"engine": "vllm_async"})
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "")
    monkeypatch.setattr(vllm_engine, "import_vllm", lambda spec: fails)
    with pytest.raises(MemoryError):
        VllmEngine(EngineSettings(str(tmp_path), "bfloat16", spec, 8))
    assert events == ["turn begins", "started in this process", "turn begins", "started with mp"]
    assert MARK not in os.environ
    sockets, deadline = Path(os.environ["VLLM_RPC_BASE_PATH"]), time.monotonic() + WAIT_S
    while sockets.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not sockets.exists()
    with pytest.raises(RolloutError):
        VllmEngine(EngineSettings(str(tmp_path), "bfloat16", spec))
