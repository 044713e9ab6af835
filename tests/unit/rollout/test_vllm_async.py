"""vLLM in processes of its own: nothing left of it after a SIGKILL, and errors where its core is killed.

Its contract is tested in test_vllm_contract.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from polyray.config.rollout import RolloutSpec
from polyray.rollout.engine import EngineSettings
from polyray.rollout.watchdog import marked_processes
from polyray.types import GroupRequest
from tests.unit.rollout.engine_contract import request
from tests.unit.rollout.engine_process import RemoteEngine, engine_process
from tests.unit.rollout.test_vllm_contract import RANK, SHAPE, adapter
from tests.unit.tiny_policy import save_base

WAIT_S = 30.0


def _outside(engine: RemoteEngine, processes: list[int]) -> list[Path]:
    """Files of the engine outside its processes: sockets, adapters, shared memory."""
    mapped = {
        line.split()[-1]
        for pid in processes
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if "/dev/shm/psm_" in line and not line.endswith("(deleted)")
    }
    own = [directory := Path(engine.value("_watchdog.directory")), *directory.iterdir()]
    return [*own, *map(Path, sorted(mapped))]


@contextmanager
def started(tmp_path: Path) -> Iterator[RemoteEngine]:
    model_dir = save_base(tmp_path, **SHAPE)
    spec = RolloutSpec(engine="vllm_async", max_staleness=1, max_completion_tokens=240, kv_cache_mib=16)
    with engine_process(EngineSettings(str(model_dir), "float32", spec, RANK)) as engine:
        engine.load(adapter(12).update)
        yield engine


def asked(number: int) -> GroupRequest:
    return replace(request(number, seeds=range(6)), max_completion_tokens=200)


@pytest.mark.slow
def test_killed_owner_leaves_neither_processes_nor_files(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        mark = engine.value("_watchdog.mark")
        processes = marked_processes(mark)
        assert len(processes) >= 2  # EngineCore and its worker
        outside = _outside(engine, processes)
        assert len(outside) >= 3 and all(path.exists() for path in outside)
        engine.submit(99, asked(99))  # it dies at work
        os.kill(engine.pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_S
        while (
            marked_processes(mark) or any(path.exists() for path in outside)
        ) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert marked_processes(mark) == []
        assert [path for path in outside if path.exists()] == []


@pytest.mark.slow
def test_killed_engine_core_raises_in_steps_and_in_calls(tmp_path: Path) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    with started(tmp_path) as engine:
        begun = time.monotonic()
        assert engine.poll() == [] and time.monotonic() - begun < 1.0  # nothing runs: no wait
        engine.submit(0, asked(0))
        engine.abort(0)
        assert engine.value("idle") is True
        engine.submit(1, asked(1))
        core = next(
            pid
            for pid in marked_processes(engine.value("_watchdog.mark"))
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(core, signal.SIGSTOP)  # so that the next call waits when it is killed
        threading.Timer(1.0, os.kill, [core, signal.SIGKILL]).start()
        with pytest.raises(EngineDeadError):
            engine.load(adapter(13).update)
        with pytest.raises(EngineDeadError):
            engine.drain()
