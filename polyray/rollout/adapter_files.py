"""Adapters as PEFT directories in this node's shared memory, for engines that load them by path.

    <shared memory>/polyray-adapters-<pid namespace>-<pid>-<start>-<random>/<version's name>/
        adapter_config.json
        adapter_model.safetensors

One `AdapterFiles` per engine, and a watchdog that removes it with its process. The directory also carries the
process that made it, so that a later process on the node can remove files that were left without a watchdog.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyray.errors import WeightSyncError
from polyray.models.adapter import AdapterShape
from polyray.rollout.processes import ProcessIdentity, pid_namespace, this_process
from polyray.rollout.watchdog import Watchdog

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "polyray-adapters"
NAME = re.compile(rf"{PREFIX}-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<started>\d+)-")
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class AdapterFiles:
    """The adapters that one engine holds, each in a directory of its own. Not thread-safe."""

    def __init__(self, root: Path | None = None) -> None:
        """Below `root`, by default shared memory (the temporary directory where there is none)."""
        root = root or (SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir()))
        reap_adapter_files(root)
        own = this_process()
        prefix = f"{PREFIX}-{pid_namespace()}-{own.pid}-{own.started}-"
        self.directory = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        self._watchdog = Watchdog([self.directory])

    def write(self, name: str, config: Mapping[str, Any], tensors: bytes) -> Path:
        """A directory that vLLM and PEFT read; complete as soon as it is there. WeightSyncError where there is
        no room."""
        target = self.directory / name
        temporary = self.directory / f".{name}"
        try:
            temporary.mkdir()
            (temporary / WEIGHTS_FILE).write_bytes(tensors)
            (temporary / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
            temporary.rename(target)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise WeightSyncError(
                f"the {len(tensors) / 2**20:.1f} MiB of {name} cannot be written to {target} ({error.strerror}); "
                "make room in shared memory, in a container with --shm-size"
            ) from error
        return target

    def remove(self, name: str) -> None:
        """The version is not needed any more."""
        shutil.rmtree(self.directory / name)

    def close(self) -> None:
        """Removes everything. May be called again."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self._watchdog.close()


def peft_config(shape: AdapterShape) -> dict[str, Any]:
    """adapter_config.json of plain LoRA factors."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "target_modules": list(shape.target_modules),
        "use_rslora": shape.use_rslora,
        "bias": "none",
        "inference_mode": True,
    }


def reap_adapter_files(root: Path) -> list[Path]:
    """Removes what processes of this pid namespace left that are gone; returns what was there."""
    left = []
    for directory in root.glob(f"{PREFIX}-*"):
        match = NAME.match(directory.name)
        if match is None or int(match["namespace"]) != pid_namespace():
            continue
        if not ProcessIdentity(int(match["pid"]), int(match["started"])).is_alive:
            shutil.rmtree(directory, ignore_errors=True)
            left.append(directory)
    return left
