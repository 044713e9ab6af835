"""Adapter bytes + a pristine float32 base -> the complete set of weights an engine reloads.

Engines fuse some modules (q, k, v into one; gate and up into one), and a partial reload of a fused module
serves garbage without an error. So the set is closed over fused siblings: the untargeted ones come as W0.
Everything is checked before the engine is touched, because a reload that fails halfway cannot be undone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from polyray.config.model import TIED_MODULES
from polyray.errors import WeightSyncError, boundary
from polyray.models.adapter import AdapterShape, PolicyUpdate

FUSED_GROUPS: tuple[frozenset[str], ...] = (
    frozenset({"q_proj", "k_proj", "v_proj"}),
    frozenset({"gate_proj", "up_proj"}),
)
PEFT_PREFIX = "base_model.model."


def closed_over_fused(target_modules: Iterable[str]) -> frozenset[str]:
    """The modules that must be reloaded together with the targeted ones, in names like 'q_proj'."""
    names = {name.rsplit(".", 1)[-1] for name in target_modules}
    for group in FUSED_GROUPS:
        if names & group:
            names |= group
    return frozenset(names)


def parts_of_modules(names: Iterable[str], fused: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """{an engine's module: the weights that it stacks, in their order}; `fused` is {"qkv_proj": ["q_proj", ...]}."""
    place = {part: (whole, index) for whole, parts in fused.items() for index, part in enumerate(parts)}
    found: dict[str, dict[int, str]] = {}
    for name in names:
        parent, _, module = name.removesuffix(".weight").rpartition(".")
        whole, index = place.get(module, (module, 0))
        found.setdefault(f"{parent}.{whole}", {})[index] = name
    return {module: [parts[index] for index in sorted(parts)] for module, parts in found.items()}


class MergedWeights:
    """Merges adapters into one base, again and again, from a pristine copy that is read once."""

    def __init__(self, model_dir: Path) -> None:
        self._files = base_weight_files(model_dir)
        self._pristine: dict[str, torch.Tensor] = {}

    def merge(self, payload: PolicyUpdate) -> Callable[[str], torch.Tensor]:
        """Float32 weight of each of `names`, Hugging Face names; computed when it is asked for.

        Weights that an earlier payload touched and this one does not are W0, so the result never
        depends on what was served before. Raises WeightSyncError at once for tied or unknown modules, wrong
        shapes and values that are not finite.
        """
        shape = payload.shape
        if shape is None:
            return lambda name: self._pristine[name].float()
        deltas = paired_factors(adapter_from_bytes(payload.tensors))
        self._refuse_tied(shape)
        self._load_pristine(closed_over_fused(shape.target_modules))
        named = {module.rsplit(".", 1)[-1] for module in shape.target_modules}
        unknown = sorted(
            name for name in deltas if name not in self._pristine or name.split(".")[-2] not in named
        )
        if unknown:
            raise WeightSyncError(
                f"{payload.policy.name} holds factors for {unknown[:3]}, which are no target modules "
                f"({', '.join(sorted(named))}) of this base; it was trained on another base model"
            )
        for name, (a, b) in deltas.items():
            _check_factors(name, self._pristine[name], a, b, shape)

        def merged(name: str) -> torch.Tensor:
            weight = self._pristine[name].float()
            return merged_weight(name, weight, *deltas[name], shape) if name in deltas else weight

        return merged

    @property
    def names(self) -> tuple[str, ...]:
        """All weights to load; none before the first adapter, as long as an engine has the base's weights."""
        return tuple(self._pristine)

    def _refuse_tied(self, shape: AdapterShape) -> None:
        tied = [name for name in shape.target_modules if name.rsplit(".", 1)[-1] in TIED_MODULES]
        if tied:
            raise WeightSyncError(
                f"the adapter targets {tied}: tied embeddings reload wrongly in merged delivery"
            )

    def _load_pristine(self, modules: frozenset[str]) -> None:
        missing = {
            name: file
            for name, file in self._files.items()
            if name not in self._pristine and name.endswith(".weight") and name.split(".")[-2] in modules
        }
        for file in sorted(set(missing.values())):
            with safe_open(str(file), framework="pt") as tensors:
                for name in sorted(name for name, where in missing.items() if where == file):
                    self._pristine[name] = tensors.get_tensor(name)


def adapter_from_bytes(data: bytes) -> dict[str, torch.Tensor]:
    """safetensors bytes -> PEFT state dict; nothing for empty bytes. WeightSyncError for other bytes."""
    with boundary(WeightSyncError, "the adapter's weights cannot be read as safetensors"):
        return load_tensors(data) if data else {}


def base_weight_files(model_dir: Path) -> dict[str, Path]:
    """{name: file} of a base's weights. WeightSyncError where there are no safetensors."""
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        entries = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: model_dir / file for name, file in entries.items()}
    single = model_dir / "model.safetensors"
    if not single.is_file():
        raise WeightSyncError(
            f"{model_dir} has no model.safetensors; delivery reads safetensors weights only"
        )
    with safe_open(str(single), framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), single)


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


def paired_factors(factors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{weight name: (A [r, in], B [out, r])} of a PEFT state dict. WeightSyncError where a factor is missing, is
    not finite, or is none of plain LoRA's."""
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for key, a in factors.items():
        if not bool(torch.isfinite(a).all()):
            raise WeightSyncError(
                f"{key} holds values that are not finite; the learner diverged, lower learning_rate"
            )
        if key.endswith(".lora_A.weight"):
            stem = key.removesuffix(".lora_A.weight")
            b = factors.get(f"{stem}.lora_B.weight")
            if b is None:
                raise WeightSyncError(f"{key} has no lora_B beside it: the adapter is incomplete")
            pairs[f"{stem.removeprefix(PEFT_PREFIX)}.weight"] = (a, b)
        elif key.endswith(".lora_B.weight"):
            if f"{key.removesuffix('.lora_B.weight')}.lora_A.weight" not in factors:
                raise WeightSyncError(f"{key} has no lora_A beside it: the adapter is incomplete")
        else:
            raise WeightSyncError(f"{key} is neither lora_A nor lora_B; delivery supports plain LoRA only")
    return pairs


def merged_weight(
    name: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, shape: AdapterShape
) -> torch.Tensor:
    """W0 + scale B A for a float32 weight [out, in]. WeightSyncError where the factors do not fit it."""
    _check_factors(name, weight, a, b, shape)
    return torch.addmm(weight, b.float(), a.float(), alpha=shape.scale)


def _check_factors(
    name: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, shape: AdapterShape
) -> None:
    expected = (shape.rank, weight.shape[1]), (weight.shape[0], shape.rank)
    if (tuple(a.shape), tuple(b.shape)) != expected:
        raise WeightSyncError(
            f"{name}: factors of shape {tuple(a.shape)} and {tuple(b.shape)}, expected {expected[0]} "
            f"and {expected[1]}; "
            "the adapter belongs to another base or rank"
        )
