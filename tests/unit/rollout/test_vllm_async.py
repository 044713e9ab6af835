"""vLLM in processes of its own: right numbers for two versions at once, and nothing left of it after a SIGKILL.

Its contract is tested in test_vllm_contract.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from polyray.config.rollout import RolloutSpec
from polyray.rollout.engine import EngineSettings
from polyray.rollout.watchdog import marked_processes
from tests.unit.rollout.engine_process import RemoteEngine, engine_process
from tests.unit.rollout.test_vllm_adapters import PROBE, RANK, SHAPE, TOLERANCE, Policy, request
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


def _check_two_versions_at_once(engine: RemoteEngine) -> None:
    first, second = Policy(None), Policy(11)
    requests = [request(), request()]
    for policy, asked in zip((first, second), requests, strict=True):
        engine.load(policy.payload)
        engine.submit(asked.group_id, asked)
        assert np.abs(engine.probe(PROBE) - policy.payload.probe.logprobs).max() < TOLERANCE
    given_up = request()
    engine.submit(given_up.group_id, given_up)
    engine.abort(given_up.group_id)
    groups = dict(engine.drain())
    assert set(groups) == {asked.group_id for asked in requests}
    for policy, other, asked in ((first, second, requests[0]), (second, first, requests[1])):
        group = groups[asked.group_id]
        assert group.policy == policy.payload.policy
        assert policy.disagreement(group) < TOLERANCE < other.disagreement(group)
    assert engine.held() == {second.payload.policy.name: 0}


@pytest.mark.slow
def test_two_versions_at_once_and_nothing_left_after_a_kill(tmp_path: Path) -> None:
    model_dir = save_base(tmp_path, **SHAPE)
    spec = RolloutSpec(engine="vllm_async", max_staleness=1, max_completion_tokens=8, kv_cache_mib=16)
    with engine_process(EngineSettings(str(model_dir), "float32", spec, RANK)) as engine:
        _check_two_versions_at_once(engine)
        mark = engine.value("_watchdog.mark")
        processes = marked_processes(mark)
        assert len(processes) >= 2, "EngineCore and its worker"
        outside = _outside(engine, processes)
        assert len(outside) >= 3 and all(path.exists() for path in outside)
        engine.submit(99, request())  # it dies at work
        os.kill(engine.pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_S
        while (
            marked_processes(mark) or any(path.exists() for path in outside)
        ) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert marked_processes(mark) == []
        assert [path for path in outside if path.exists()] == []


@pytest.mark.slow
def test_a_killed_engine_core_raises_in_steps_and_in_calls(tmp_path: Path) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    model_dir = save_base(tmp_path, **SHAPE)
    spec = RolloutSpec(engine="vllm_async", max_staleness=1, max_completion_tokens=240, kv_cache_mib=16)
    with engine_process(EngineSettings(str(model_dir), "float32", spec, RANK)) as engine:
        policy = Policy(12)
        engine.load(policy.payload)
        started = time.monotonic()
        assert engine.poll() == [] and time.monotonic() - started < 1.0, "nothing runs: no wait"
        engine.submit(0, request(max_tokens=200))
        engine.abort(0)
        assert engine.value("idle") is True
        engine.submit(1, request(max_tokens=200))
        core = next(
            pid
            for pid in marked_processes(engine.value("_watchdog.mark"))
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(core, signal.SIGSTOP)  # so that the next call waits when it is killed
        threading.Timer(1.0, os.kill, [core, signal.SIGKILL]).start()
        with pytest.raises(EngineDeadError):
            engine.load(Policy(13).payload)
        with pytest.raises(EngineDeadError):
            engine.drain()
