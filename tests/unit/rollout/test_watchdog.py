"""The watchdog with plain processes: what carries the mark dies with its owner, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from polyray.rollout.watchdog import MARK, Watchdog, marked_processes

WAIT_S = 20.0
ENGINE = """
import subprocess, time
from multiprocessing import resource_tracker, shared_memory

resource_tracker.register = lambda *args: None  # as if its tracker had been killed, too
subprocess.Popen(["sleep", "600"], start_new_session=True)
memory = shared_memory.SharedMemory(create=True, size=4096)
print(memory.name, flush=True)
time.sleep(600)
"""
OWNER = f"""
ENGINE = {ENGINE!r}
import subprocess, sys
from polyray.rollout.watchdog import Watchdog

watchdog = Watchdog()
(watchdog.directory / "v1").mkdir()
with watchdog.marking():
    # A process with a child of its own in another session, as vLLM's are.
    engine = subprocess.Popen([sys.executable, "-c", ENGINE], start_new_session=True, stdout=subprocess.PIPE)
    shared = engine.stdout.readline().decode().strip()
other = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(watchdog.directory, watchdog.mark, watchdog.pid, engine.pid, shared, other.pid, flush=True)
sys.stdin.read()
"""


def _runs(pid: int) -> bool:
    """Whether a process has this pid, and is more than an exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_killed_owner_leaves_neither_processes_nor_files() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    directory, mark, watchdog, engine, shared, other = owner.stdout.readline().split()
    assert _soon(lambda: len(marked_processes(mark)) == 2)  # the engine and the sleep below it
    memory = Path("/dev/shm") / shared
    assert memory.is_file()
    assert _runs(int(other)) and _runs(int(engine))
    assert (Path(directory) / "v1").is_dir()

    owner.kill()
    owner.wait()

    assert _soon(lambda: not marked_processes(mark))
    assert _soon(lambda: not Path(directory).exists())
    assert _soon(lambda: not memory.exists())
    assert _soon(lambda: not _runs(int(watchdog)))
    assert _runs(int(other))  # without the mark
    os.kill(int(other), 9)


def test_close_removes_processes_files_and_memory_of_dead_processes() -> None:
    watchdog = Watchdog()
    with watchdog.marking():
        child = subprocess.Popen(["sleep", "600"])
        engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, text=True)
        assert engine.stdout is not None
        memory = Path("/dev/shm") / engine.stdout.readline().strip()
    assert MARK not in os.environ
    assert {child.pid, engine.pid} <= set(marked_processes(watchdog.mark))
    engine.kill()
    engine.wait(WAIT_S)
    assert memory.is_file()
    watchdog.close()
    assert not watchdog.directory.exists()  # at once
    watchdog.close()
    assert child.wait(WAIT_S) == -9
    assert _soon(lambda: not memory.exists())
    assert _soon(lambda: not _runs(watchdog.pid))


def test_watchdog_is_detached_and_survives_signals() -> None:
    watchdog = Watchdog()
    parent = Path(f"/proc/{watchdog.pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    for number in (1, 2, 15):
        os.kill(watchdog.pid, number)
    time.sleep(0.1)
    assert _runs(watchdog.pid)
    watchdog.close()
    assert _soon(lambda: not _runs(watchdog.pid))
