"""Lock that lets engines with shares of one GPU start one after another.

While it starts, vLLM measures how much of the GPU's memory is left, and counts other allocations as its own need.
The lock is on a file of the machine: it is free again when its process ends, in any way.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyray.config.rollout import RolloutSpec

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable in which Ray names the GPU of a share."""


@contextmanager
def gpu_startup_lock(rollout: RolloutSpec, directory: Path | None = None) -> Iterator[None]:
    """Hold the GPU's lock against engines of the same user; an engine without a shared GPU does not wait."""
    if not rollout.shares_gpus:
        yield
        return
    gpu = re.sub(r"\W", "_", os.environ.get(VISIBLE, ""))
    path = (directory or Path(tempfile.gettempdir())) / f"polyray-gpu-{os.getuid()}-{gpu}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile would hold it as well
        os.close(file)
