"""The two ways a policy version gets into a vLLM engine.

MergedDelivery    the engine's weights become W0 + scale B A: full speed, one version at a time
AdapterDelivery   the engine computes W0 x + scale B (A x) and holds several versions, read from files

An adapter in an engine always has a name, an id and a path of its own: vLLM finds cached keys and values again
by name and path, so that a version under another's name would be served with the other's.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from polyray.config.model import LINEAR_MODULES
from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import AdapterShape, PolicyUpdate
from polyray.weight_sync.merge import (
    MergedWeights,
    adapter_from_bytes,
    paired_factors,
    parts_of_modules,
    zero_adapter,
)


class MergedDelivery:
    """The weights themselves change: one version at a time, only where nothing runs, all inside this process."""

    def __init__(self, model_dir: Path, engine: Any) -> None:
        """`engine`: vLLM's LLMEngine."""
        self._engine = engine
        self._weights = MergedWeights(model_dir)
        self._dtype = engine.vllm_config.model_config.dtype
        self._on_cpu = engine.vllm_config.device_config.device_type == "cpu"
        for name in ("layerwise", "inplace"):  # they warn about every module that a reload leaves as it is
            logging.getLogger(f"vllm.model_executor.model_loader.reload.{name}").setLevel(logging.ERROR)

    def load(self, payload: PolicyUpdate) -> None:
        """Merge into the pristine base, in place. WeightSyncError for a payload that cannot be merged."""
        merged, names = self._weights.merge(payload), self._weights.names
        if names and self._on_cpu:
            self._engine.apply_model(partial(self._replace, names=names, merged=merged))
        elif names:
            weights = ((name, merged(name).to(self._dtype)) for name in names)
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._engine.reset_prefix_cache():
            raise RolloutError(
                "vLLM did not reset its prefix cache: the old version's keys and values may remain"
            )

    def unload(self, loaded: Any) -> None:
        """No effect: the next load takes the place of this version."""

    def _replace(self, model: Any, names: Sequence[str], merged: Callable[[str], torch.Tensor]) -> None:
        """Give each linear layer its new weight, and let vLLM pack it for the processor.

        vLLM's own reload writes every weight once more, which takes as long as merging and packing.
        """
        layers = dict(model.named_modules())
        modules = parts_of_modules(names, model.packed_modules_mapping)
        if unknown := sorted(modules.keys() - layers.keys()):
            raise WeightSyncError(
                f"vLLM's {type(model).__name__} has no {unknown[0]}: merged weights cannot be loaded into it; set "
                "delivery.mode=adapter"
            )
        for module, parts in modules.items():
            layer = layers[module]
            weights = [merged(name).to(self._dtype) for name in parts]
            weight = torch.cat(weights) if len(weights) > 1 else weights[0]
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.quant_method.process_weights_after_loading(layer)


class AdapterDelivery:
    """Versions side by side; a load may happen at any time, and a refused one leaves the engine as it was."""

    def __init__(self, model_dir: Path, engine: Any, max_rank: int, directory: Path) -> None:
        """`engine`: vLLM's LLMEngine; `max_rank`: of the adapters to come; `directory`: for their files."""
        self._model_dir = model_dir
        self._engine = engine
        self._max_rank = max_rank
        self._directory = directory
        self._ids = itertools.count(1)

    def load(self, payload: PolicyUpdate) -> Any:
        """Write the adapter's files and have the engine load them; the `LoRARequest` that names it."""
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.exceptions import EngineDeadError

        tensors, shape = self._checked(payload)
        name = payload.policy.name
        files = write_adapter(self._directory / name, shape, tensors)
        request = LoRARequest(name, next(self._ids), str(files))
        try:
            loaded, reason = self._engine.add_lora(request), "it gave no reason; see its log"
        except EngineDeadError:
            raise
        except Exception as error:
            loaded, reason = False, f"{type(error).__name__}: {error}"
        if not loaded:
            shutil.rmtree(files)
            raise WeightSyncError(f"vLLM refused {name}: {reason}")
        return request

    def unload(self, loaded: Any) -> None:
        """The engine forgets an adapter that nothing runs on, and its files go."""
        self._engine.remove_lora(loaded.lora_int_id)
        shutil.rmtree(loaded.lora_path)

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


def write_adapter(target: Path, shape: AdapterShape, tensors: bytes) -> Path:
    """Make the directory of an adapter that vLLM and PEFT read. WeightSyncError where there is no room."""
    try:
        target.mkdir()
        (target / "adapter_model.safetensors").write_bytes(tensors)
        (target / "adapter_config.json").write_text(json.dumps(shape.to_peft()), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise WeightSyncError(
            f"the {len(tensors) / 2**20:.1f} MiB of {target.name} cannot be written to {target} ({error.strerror}); "
            "make room in shared memory, in a container with --shm-size"
        ) from error
    return target
