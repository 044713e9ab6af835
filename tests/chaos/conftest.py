"""After every chaos test: nothing is left of what it killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util import placement_group_table

from polyray.rollout.watchdog import SHARED_MEMORY, shared_memory_of
from tests.conftest import marked_processes, session_mark

TIDY_S = 30.0


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Fail if a test leaves placement groups, shared memory or orphans."""
    before = left_over()
    yield
    deadline = time.monotonic() + TIDY_S
    while (left := left_over() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()


def left_over() -> set[str]:
    """Leftovers of a fault: placement groups, shared memory, processes."""
    groups = placement_group_table().values() if ray.is_initialized() else ()
    held = {
        f"placement group {group['placement_group_id']}" for group in groups if group["state"] != "REMOVED"
    }
    return held | ownerless_files() | orphans()


def ownerless_files() -> set[str]:
    """Files in shared memory without a live owner; other tests may run."""
    blocks = set(SHARED_MEMORY.glob("psm_*"))
    for pid in (
        [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()] if blocks else []
    ):
        blocks -= shared_memory_of(pid)
    engines = [
        directory
        for directory in SHARED_MEMORY.glob("polyray-engine-*")
        if not Path(f"/proc/{directory.name.split('-')[2]}").exists()
    ]
    return {str(path) for path in [*engines, *blocks]}


def orphans() -> set[str]:
    """Processes of this session whose parent is none of them."""
    own = {os.getpid(), *marked_processes(session_mark())}
    found = set()
    for pid in own - {os.getpid()}:
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if parent not in own:
            found.add(f"process {pid} without a parent: {command}")
    return found
