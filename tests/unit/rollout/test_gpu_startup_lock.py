"""Engines on one GPU start one after another; other engines do not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.config.rollout import RolloutSpec
from polyray.rollout import vllm_build, vllm_engine, vllm_processes, vllm_text
from polyray.rollout.gpu_startup_lock import VISIBLE, gpu_startup_lock
from polyray.rollout.vllm_engine import build_llm

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
    events: list[str] = []

    def start() -> None:
        with gpu_startup_lock(SHARE, tmp_path):
            events.append("second")

    second = threading.Thread(target=start)
    with gpu_startup_lock(SHARE, tmp_path):
        second.start()
        second.join(0.1)
        assert second.is_alive()
        events.append("first")
        monkeypatch.setenv(VISIBLE, "GPU-4/a")
        with gpu_startup_lock(SHARE, tmp_path):
            events.append("on another GPU")
        with gpu_startup_lock(WHOLE, tmp_path), gpu_startup_lock(RolloutSpec(), tmp_path):
            events.append("alone on its GPU, and on none")
    second.join(WAIT_S)
    assert events == ["first", "on another GPU", "alone on its GPU, and on none", "second"]


def test_a_start_that_fails_ends_its_turn(tmp_path: Path) -> None:
    with pytest.raises(MemoryError), gpu_startup_lock(SHARE, tmp_path):
        raise MemoryError
    with gpu_startup_lock(SHARE, tmp_path):
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
    monkeypatch.setattr(vllm_engine, "import_vllm", lambda *, on_gpu: Llm)
    _at_once([lambda: build_llm(tmp_path, spec, "bfloat16")] * 2)
    assert max(seen) == most_at_once and len(seen) == 2


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Turns as they begin and end, in engines of a service and of several processes, without vLLM."""
    seen: list[str] = []

    @contextmanager
    def turn(rollout: RolloutSpec) -> Iterator[None]:
        assert rollout is SHARE
        seen.append("turn begins")
        yield
        seen.append("turn ends")

    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    for module in (vllm_text, vllm_processes):
        monkeypatch.setattr(module, "gpu_startup_lock", turn)
    return seen


def test_a_replicas_engine_is_built_in_its_turn(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(**arguments: Any) -> None:
        events.append(f"built with {arguments['gpu_memory_utilization']}")
        raise MemoryError

    monkeypatch.setattr(vllm_text, "import_vllm", lambda *, on_gpu: built)
    engine = vllm_text.VllmTextEngine(tmp_path, SHARE, "bfloat16", 8, 2)
    with pytest.raises(MemoryError):
        engine._ready.result(WAIT_S)
    assert events == ["turn begins", "built with 0.45"]


def test_an_engine_of_several_processes_starts_in_its_turn(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(arguments: object, spec: RolloutSpec, sockets: Path) -> Any:
        events.append("started")
        return SimpleNamespace(shutdown=lambda timeout: None)

    monkeypatch.setattr(vllm_processes, "_start", start)
    vllm_processes.VllmProcesses({}, SHARE).close()
    assert events == ["turn begins", "started", "turn ends"]
