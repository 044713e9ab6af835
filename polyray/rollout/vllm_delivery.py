"""The two ways a policy version gets into a vLLM engine.

MergedDelivery    the engine's weights become W0 + scale B A: full speed, one version at a time
AdapterDelivery   the engine computes W0 x + scale B (A x) and holds several versions, read from AdapterFiles

An adapter in an engine always has a name, an id and a path of its own: vLLM finds cached keys and values again
by name and path, so that a version under another's name would be served with the other's.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from polyray.config.model import LINEAR_MODULES
from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import AdapterShape, PolicyUpdate
from polyray.rollout.vllm_build import VLLM_RANKS
from polyray.rollout.watchdog import Watchdog
from polyray.weight_sync.merge import MergedWeights, adapter_from_bytes, paired_factors, zero_adapter

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "polyray-adapters-"
LOCK = ".owner"
RELOAD_LOGGERS = ("layerwise", "inplace")
"""vLLM's loggers that warn about every module left unchanged by a reload, which is intended here."""


class MergedDelivery:
    """The weights themselves change: one version at a time, only where nothing runs, all inside this process."""

    keeps_versions = False

    def __init__(self, model_dir: Path, engine: Any) -> None:
        """`engine`: vLLM's LLMEngine."""
        self._engine = engine
        self._weights = MergedWeights(model_dir)
        self._dtype = engine.vllm_config.model_config.dtype
        for name in RELOAD_LOGGERS:
            logging.getLogger(f"vllm.model_executor.model_loader.reload.{name}").setLevel(logging.ERROR)

    def load(self, payload: PolicyUpdate) -> None:
        """Merge into the pristine base and reload in place. WeightSyncError for a payload that cannot be merged."""
        merged = self._weights.merge(payload)
        if self._weights.touched:
            weights = ((name, weight.to(self._dtype)) for name, weight in merged)
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._engine.reset_prefix_cache():
            raise RolloutError(
                "vLLM refused to reset its prefix cache: keys and values of the old version may remain"
            )

    def unload(self, loaded: Any) -> None:
        """No effect: the next load takes the place of this version."""

    def close(self) -> None:
        """No effect."""


class AdapterDelivery:
    """Versions side by side; a load may happen at any time, and a refused one leaves the engine as it was."""

    keeps_versions = True

    def __init__(self, model_dir: Path, engine: Any, max_rank: int) -> None:
        """`engine`: vLLM's LLMEngine; `max_rank`: of the adapters to come."""
        self._model_dir = model_dir
        self._engine = engine
        self._max_rank = max_rank
        self.files = AdapterFiles()
        self._ids = itertools.count(1)

    def load(self, payload: PolicyUpdate) -> Any:
        """Write the adapter's files and have the engine load them; the `LoRARequest` that names it."""
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.exceptions import EngineDeadError

        tensors, shape = self._checked(payload)
        name = payload.policy.name
        request = LoRARequest(name, next(self._ids), str(self.files.write(name, shape, tensors)))
        try:
            loaded, reason = self._engine.add_lora(request), "it gave no reason; see its log"
        except EngineDeadError:
            raise
        except Exception as error:
            loaded, reason = False, f"{type(error).__name__}: {error}"
        if not loaded:
            self.files.remove(name)
            raise WeightSyncError(f"vLLM refused {name}: {reason}")
        return request

    def unload(self, loaded: Any) -> None:
        """The engine forgets an adapter that nothing runs on, and its files go."""
        self._engine.remove_lora(loaded.lora_int_id)
        self.files.remove(loaded.lora_name)

    def close(self) -> None:
        """Remove files outside this process."""
        self.files.close()

    def _checked(self, payload: PolicyUpdate) -> tuple[bytes, AdapterShape]:
        if payload.shape is None:
            return zero_adapter(self._model_dir)
        if payload.shape.rank > self._max_rank:
            raise WeightSyncError(
                f"{payload.policy.name} has rank {payload.shape.rank}, but the engine was built for "
                f"at most {self._max_rank}; set model.lora.rank={payload.shape.rank}"
            )
        # vLLM takes factors that are not finite, and leaves out modules it has not wrapped, without a word.
        names = paired_factors(adapter_from_bytes(payload.tensors))
        unknown = sorted({name.split(".")[-2] for name in names} - set(LINEAR_MODULES))
        if unknown:
            raise WeightSyncError(
                f"{payload.policy.name} changes {unknown}: adapter delivery serves {list(LINEAR_MODULES)}; "
                "set model.lora.target_modules to some of these"
            )
        return payload.tensors, payload.shape


def engine_rank(lora_rank: int) -> int:
    """The smallest `max_lora_rank` of vLLM's that an adapter of this rank fits in."""
    return next(rank for rank in VLLM_RANKS if rank >= lora_rank)


class AdapterFiles:
    """The adapters that one engine holds, as PEFT directories in this node's shared memory.

        <shared memory>/polyray-adapters-<random>/<version's name>/adapter_{config.json,model.safetensors}

    A watchdog removes them with their process. The process also holds a lock in the directory, so that a later one
    on the node can remove files that were left without a watchdog. Not thread-safe.
    """

    def __init__(self, root: Path | None = None) -> None:
        """Below `root`, by default shared memory (the temporary directory where there is none)."""
        root = root or (SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir()))
        for left in ownerless(root):
            shutil.rmtree(left, ignore_errors=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=root))  # until it is locked
        self._lock = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.directory = hidden.rename(root / hidden.name.removeprefix("."))
        self._watchdog = Watchdog([self.directory])

    def write(self, name: str, shape: AdapterShape, tensors: bytes) -> Path:
        """A directory that vLLM and PEFT read. WeightSyncError where there is no room."""
        target = self.directory / name
        try:
            target.mkdir()
            (target / "adapter_model.safetensors").write_bytes(tensors)
            (target / "adapter_config.json").write_text(json.dumps(shape.to_peft()), encoding="utf-8")
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
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
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def ownerless(root: Path) -> list[Path]:
    """Adapter directories below `root` with a process that is gone, in whatever container it was."""
    left = []
    for directory in root.glob(f"{PREFIX}*"):
        try:
            with (directory / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.append(directory)
        except OSError:  # its process lives, it has just gone, or it is another user's
            continue
    return left
