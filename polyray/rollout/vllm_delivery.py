"""The two ways a policy version gets into a vLLM engine, behind one interface.

MergedDelivery    the engine's weights become W0 + scale B A: full speed, one version at a time
AdapterDelivery   the engine computes W0 x + scale B (A x) and holds several versions: a group in flight keeps
                  the one it was admitted with, later ones take the newest

An adapter in an engine always has a name, an id and a path of its own: vLLM finds cached keys and values again
by name and path, so that a version under another's name would be served with the other's.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save

from polyray.config.model import LINEAR_MODULES
from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import AdapterShape, PolicyUpdate
from polyray.rollout.adapter_files import AdapterFiles, peft_config
from polyray.rollout.vllm_build import VLLM_RANKS
from polyray.types import PolicyVersion
from polyray.weight_sync.merge import (
    PEFT_PREFIX,
    MergedWeights,
    adapter_from_bytes,
    base_weight_files,
    paired_factors,
)

RELOAD_LOGGERS = ("layerwise", "inplace")
"""vLLM's loggers that warn about every module left unchanged by a reload, which is intended here."""


class EngineCalls(Protocol):
    """Calls of vLLM that a delivery needs; `LLMEngine` has them all."""

    def add_lora(self, lora_request: Any) -> bool:
        """Loads an adapter from its path."""
        ...

    def remove_lora(self, lora_id: int) -> bool:
        """Forgets an adapter."""
        ...

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[Any]:
        """Calls a method of every worker process."""
        ...

    def reset_prefix_cache(self) -> bool:
        """Forgets keys and values of finished requests; False where some are still in use."""
        ...


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """Policy version, and its vLLM request, for the groups that are admitted now.

    Example:
        ServedVersion(policy=PolicyVersion(...), lora_request=None)
    """

    policy: PolicyVersion
    lora_request: Any
    """A `vllm.lora.request.LoRARequest`; None where the weights themselves are this version's."""


class VersionDelivery(Protocol):
    """Loading of versions into an engine, and the version that it serves."""

    keeps_versions: bool
    """True: a version may be loaded while groups of others run."""

    def load(self, payload: PolicyUpdate) -> None:
        """This version is served from now on. WeightSyncError where it cannot be."""
        ...

    def served(self, run: str) -> ServedVersion:
        """The newest version of a run. RolloutError where none is loaded."""
        ...

    def probed(self) -> ServedVersion:
        """The version that was loaded last."""
        ...

    def forget(self, run: str) -> None:
        """The run has ended: nothing of it will be asked for."""
        ...

    def hold(self, policy: PolicyVersion) -> None:
        """A group of this version was admitted."""
        ...

    def release(self, policy: PolicyVersion) -> None:
        """Such a group finished or was given up."""
        ...

    def close(self) -> None:
        """Remove files outside this process."""
        ...


class MergedDelivery:
    """See the module; `load` only where nothing runs."""

    keeps_versions = False

    def __init__(self, model_dir: Path, engine: EngineCalls) -> None:
        self._engine = engine
        self._weights = MergedWeights(model_dir)
        for name in RELOAD_LOGGERS:
            logging.getLogger(f"vllm.model_executor.model_loader.reload.{name}").setLevel(logging.ERROR)
        self._served: ServedVersion | None = None

    def load(self, payload: PolicyUpdate) -> None:
        """Merges into the pristine base, which may refuse the payload, and reloads in place."""
        merged = self._weights.merge(payload)
        if merged:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(merged)})
        if not self._engine.reset_prefix_cache():
            raise RolloutError(
                "vLLM refused to reset its prefix cache: keys and values of the old version may remain"
            )
        self._served = ServedVersion(payload.policy, None)

    def served(self, run: str) -> ServedVersion:
        """See `VersionDelivery.served`."""
        mine = self._served if self._served is not None and self._served.policy.run == run else None
        return _delivered(mine)

    def probed(self) -> ServedVersion:
        """See `VersionDelivery.probed`."""
        return _delivered(self._served)

    def forget(self, run: str) -> None:
        """No effect: the next load takes its place."""

    def hold(self, policy: PolicyVersion) -> None:
        """No effect: there is one version, and it stays while groups run."""

    def release(self, policy: PolicyVersion) -> None:
        """No effect, as `hold`."""

    def close(self) -> None:
        """No effect: everything is inside this process."""


class AdapterDelivery:
    """See the module; `load` at any time, and what it refuses leaves the engine as it was."""

    keeps_versions = True

    def __init__(self, model_dir: Path, engine: EngineCalls, max_rank: int, root: Path | None = None) -> None:
        """`max_rank`: of the adapters to come; `root`: directory of their files, by default in shared memory."""
        self._model_dir = model_dir
        self._engine = engine
        self._max_rank = max_rank
        self._files = AdapterFiles(root)
        self._versions: dict[str, ServedVersion] = {}
        self._in_flight: Counter[str] = Counter()
        self._newest: dict[str, ServedVersion] = {}
        """Newest version of each run."""
        self._last: ServedVersion | None = None
        self._next_id = 1

    @property
    def in_flight(self) -> dict[str, int]:
        """Versions the engine holds by name, and how many groups run on each."""
        return {name: self._in_flight[name] for name in list(self._versions)}  # other threads may ask

    def load(self, payload: PolicyUpdate) -> None:
        """Write the adapter's files and have the engine load them; unused versions are removed."""
        name = payload.policy.name
        if name not in self._versions:
            self._versions[name] = self._load(payload)
        self._last = self._newest[payload.policy.run] = self._versions[name]
        self._forget_unused()

    def served(self, run: str) -> ServedVersion:
        """See `VersionDelivery.served`."""
        return _delivered(self._newest.get(run))

    def probed(self) -> ServedVersion:
        """See `VersionDelivery.probed`."""
        return _delivered(self._last)

    def forget(self, run: str) -> None:
        """See `VersionDelivery.forget`."""
        self._newest.pop(run, None)
        self._forget_unused()

    def hold(self, policy: PolicyVersion) -> None:
        """See `VersionDelivery.hold`."""
        self._in_flight[policy.name] += 1

    def release(self, policy: PolicyVersion) -> None:
        """See `VersionDelivery.release`."""
        self._in_flight[policy.name] -= 1
        self._forget_unused()

    def close(self) -> None:
        """See `VersionDelivery.close`."""
        self._files.close()

    def _load(self, payload: PolicyUpdate) -> ServedVersion:
        from vllm.lora.request import LoRARequest

        tensors, shape = self._checked(payload)
        name = payload.policy.name
        path = self._files.write(name, peft_config(shape), tensors)
        request = LoRARequest(name, self._next_id, str(path))
        self._next_id += 1
        try:
            loaded = self._engine.add_lora(request)
        except Exception as error:
            self._files.remove(name)
            raise WeightSyncError(f"vLLM refused {name}: {type(error).__name__}: {error}") from error
        if not loaded:
            self._files.remove(name)
            raise WeightSyncError(f"vLLM did not load {name} and gave no reason; see its log")
        return ServedVersion(payload.policy, request)

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

    def _forget_unused(self) -> None:
        for name, version in list(self._versions.items()):
            if version is not self._newest.get(version.policy.run) and not self._in_flight[name]:
                del self._versions[name], self._in_flight[name]
                self._engine.remove_lora(version.lora_request.lora_int_id)
                self._files.remove(name)


def zero_adapter(model_dir: Path) -> tuple[bytes, AdapterShape]:
    """The base model as an adapter: B = 0 on one module.

    vLLM's CPU path answers a request without an adapter from its last adapter slot, as soon as another request of
    the batch has an adapter.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // heads
    stem = next(
        (name.split(".q_proj.")[0] for name in base_weight_files(model_dir) if ".q_proj." in name), None
    )
    if stem is None:
        raise WeightSyncError(
            f"{model_dir} has no q_proj: adapter delivery needs a model of the Llama family"
        )
    factors = {
        f"{PEFT_PREFIX}{stem}.q_proj.lora_A.weight": torch.zeros(1, hidden),
        f"{PEFT_PREFIX}{stem}.q_proj.lora_B.weight": torch.zeros(heads * head_dim, 1),
    }
    return save(factors), AdapterShape(rank=1, alpha=1.0, target_modules=("q_proj",))


def engine_rank(lora_rank: int) -> int:
    """The smallest `max_lora_rank` of vLLM's that an adapter of this rank fits in."""
    return next(rank for rank in VLLM_RANKS if rank >= lora_rank)


def _delivered(version: ServedVersion | None) -> ServedVersion:
    if version is None:
        raise RolloutError("no policy version was delivered to this engine yet; deliver one before sampling")
    return version
