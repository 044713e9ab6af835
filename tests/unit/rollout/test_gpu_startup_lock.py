"""Engines on one GPU start one after another; other engines do not wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
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


def _at_once(starts: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=start) for start in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_a_second_engine_waits_until_the_first_has_started(
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
    assert events == ["first", "on another GPU", "alone on its GPU, and on none", "second"]


def test_a_start_that_fails_ends_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(MemoryError), gpu_startup_lock(SHARE):
        raise MemoryError
    with gpu_startup_lock(SHARE):
        pass


@pytest.mark.parametrize(("spec", "most_at_once"), [(SHARE, 1), (WHOLE, 2)])
def test_engines_are_built_in_their_turns(
    spec: RolloutSpec, most_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, seen = 0, []
    lock, both = threading.Lock(), threading.Event()

    class Llm:
        def __init__(self, **arguments: Any) -> None:
            nonlocal building
            with lock:
                building += 1
                seen.append(building)
                if building == 2:
                    both.set()
            both.wait(0.1 if most_at_once == 1 else WAIT_S)
            with lock:
                building -= 1

    monkeypatch.setenv(VISIBLE, "0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    monkeypatch.setattr(vllm_engine, "import_vllm", lambda spec: Llm)
    _at_once([lambda: build_llm({}, spec)] * 2)
    assert max(seen) == most_at_once and len(seen) == 2


def test_an_engine_of_several_processes_starts_in_its_turn_with_its_mark_or_leaves_nothing(
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

    spec = SHARE.model_copy(update={"engine": "vllm_async"})
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "")
    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    monkeypatch.setattr(vllm_engine, "gpu_startup_lock", turn)
    monkeypatch.setattr(vllm_engine, "import_vllm", lambda spec: fails)
    with pytest.raises(MemoryError):
        VllmEngine(EngineSettings(str(tmp_path), "bfloat16", spec, 8))
    assert events == ["turn begins", "started with mp"]
    assert MARK not in os.environ
    sockets, deadline = Path(os.environ["VLLM_RPC_BASE_PATH"]), time.monotonic() + WAIT_S
    while sockets.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not sockets.exists()
    with pytest.raises(RolloutError):
        VllmEngine(EngineSettings(str(tmp_path), "bfloat16", spec))
