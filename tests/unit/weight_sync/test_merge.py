"""Merged weights against PEFT's own merge; closed over fused modules; bad adapters refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from polyray.config.model import LINEAR_MODULES, LoraSpec
from polyray.errors import WeightSyncError
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.lora import adapter_bytes, adapter_config, adapter_state
from polyray.types import PolicyVersion
from polyray.weight_sync.merge import MergedWeights, closed_over_fused, parts_of_modules
from polyray.weight_sync.vllm_delivery import MergedDelivery
from tests.unit.tiny_policy import build_policy, save_base

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
QV = ("q_proj", "v_proj")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pristine(model_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(model_dir / "model.safetensors")


def _spec(modules: tuple[str, ...] = LINEAR_MODULES) -> LoraSpec:
    return LoraSpec(rank=4, alpha=6, target_modules=modules)


def _payload(tensors: bytes, shape: AdapterShape | None) -> PolicyUpdate:
    probe = Probe(((1, 2),), torch.zeros(1).numpy(), None)
    return PolicyUpdate(PolicyVersion(1, 1, sha256_of(tensors)), tensors, shape, probe)


def _adapter(modules: tuple[str, ...] = LINEAR_MODULES) -> tuple[PolicyUpdate, dict[str, torch.Tensor]]:
    """A payload, and the weights that PEFT's own merge gives."""
    model = build_policy(_spec(modules), reference=False)
    shape = AdapterShape.from_peft(adapter_config(model))
    payload = _payload(adapter_bytes(model), shape)
    return payload, model.merge_and_unload().state_dict()  # type: ignore[operator]  # PEFT's forwarding


def _merged(weights: MergedWeights, payload: PolicyUpdate) -> dict[str, torch.Tensor]:
    merged = weights.merge(payload)
    return {name: merged(name) for name in weights.names}


def test_every_version_of_a_sequence_is_pefts_merge_on_the_untouched_base(
    model_dir: Path, pristine: dict[str, torch.Tensor]
) -> None:
    weights = MergedWeights(model_dir)
    assert _merged(weights, _payload(b"", None)) == {}
    touched: set[str] = set()
    seen: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}
    for modules in (QV, LINEAR_MODULES, ("o_proj",), (), QV, LINEAR_MODULES):
        payload, expected = _adapter(modules) if modules else (_payload(b"", None), pristine)
        merged = _merged(weights, payload)
        touched |= closed_over_fused(modules)
        assert {name.split(".")[-2] for name in merged} == touched and len(merged) == len(touched)
        for name, weight in merged.items():
            if name.split(".")[-2] in modules:
                torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
                assert (weight - pristine[name]).abs().max() > 1e-3
            else:
                assert torch.equal(weight, pristine[name])
            assert torch.equal(weight, seen.setdefault(modules, merged).get(name, weight))  # no drift


def test_parts_of_fused_modules_come_in_the_engines_order() -> None:
    fused = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    names = [
        f"model.layers.1.{name}.weight"
        for name in ("mlp.up_proj", "a.k_proj", "a.o_proj", "a.q_proj", "a.v_proj")
    ]
    assert parts_of_modules([*names, "model.layers.1.mlp.gate_proj.weight"], fused) == {
        "model.layers.1.mlp.gate_up_proj": [
            f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")
        ],
        "model.layers.1.a.qkv_proj": [f"model.layers.1.a.{part}_proj.weight" for part in "qkv"],
        "model.layers.1.a.o_proj": ["model.layers.1.a.o_proj.weight"],
    }


@pytest.mark.parametrize(
    ("targeted", "closed"),
    [
        (("q_proj",), {"q_proj", "k_proj", "v_proj"}),
        (("up_proj", "o_proj"), {"gate_proj", "up_proj", "o_proj"}),
        (("model.layers.0.mlp.gate_proj",), {"gate_proj", "up_proj"}),
        (("down_proj", "o_proj"), {"down_proj", "o_proj"}),
    ],
)
def test_closed_over_fused_siblings(targeted: tuple[str, ...], closed: set[str]) -> None:
    assert closed_over_fused(targeted) == closed


def test_sharded_weights_merge_like_whole_ones(
    tmp_path: Path, model_dir: Path, pristine: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(WeightSyncError, match=r"model\.safetensors"):
        MergedWeights(tmp_path)
    names = sorted(pristine)
    shards = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, chosen in shards.items():
        save_file({name: pristine[name] for name in chosen}, tmp_path / file)
    index = {"weight_map": {name: file for file, chosen in shards.items() for name in chosen}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    payload = _adapter()[0]
    whole = _merged(MergedWeights(model_dir), payload)
    sharded = _merged(MergedWeights(tmp_path), payload)
    assert sharded.keys() == whole.keys()
    assert all(torch.equal(sharded[name], whole[name]) for name in whole)


def test_bfloat16_base_is_merged_in_float32(tmp_path: Path, pristine: dict[str, torch.Tensor]) -> None:
    half = {name: weight.bfloat16() for name, weight in pristine.items()}
    save_file(half, tmp_path / "model.safetensors")
    payload = _adapter(("o_proj",))[0]
    factors = safetensors.torch.load(payload.tensors)
    for name, weight in _merged(MergedWeights(tmp_path), payload).items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = factors[f"{stem}.lora_A.weight"], factors[f"{stem}.lora_B.weight"]
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, half[name].float() + 1.5 * b @ a, atol=1e-6, rtol=0)


LAYER_7 = Q0.replace("layers.0", "layers.7")


@pytest.mark.parametrize(
    ("modules", "change", "message"),
    [
        (("q_proj", "lm_head"), {}, "tied"),
        (("q_proj", "embed_tokens"), {}, "tied"),
        (("q_proj", "model.embed_tokens"), {}, "tied"),
        (("o_proj",), {}, r"self_attn\.[qv]_proj"),  # factors of modules that the shape does not name
        (("q_proj",), {}, r"self_attn\.v_proj.*\(q_proj\)"),  # a sibling that is loaded beside the named one
        (
            QV,
            {
                f"{LAYER_7}.lora_A.weight": torch.zeros(4, 32),
                f"{LAYER_7}.lora_B.weight": torch.zeros(32, 4),
            },
            r"layers\.7\.self_attn\.q_proj",
        ),
        (QV, {f"{Q0}.lora_A.weight": torch.zeros(8, 32)}, r"\(4, 32\).*\(32, 4\)"),
        (QV, {f"{Q0}.lora_B.weight": torch.zeros(32, 8)}, r"\(4, 32\).*\(32, 4\)"),
        (QV, {f"{Q0}.lora_A.weight": torch.zeros(4, 31)}, r"\(4, 31\).*\(4, 32\)"),
        (QV, {f"{Q0}.lora_B.weight": torch.full((32, 4), torch.nan)}, r"lora_B.*finite"),
        (QV, {f"{Q0}.lora_A.weight": torch.full((4, 32), torch.inf)}, r"lora_A.*finite"),
        (QV, {f"{Q0}.lora_B.weight": None}, "no lora_B"),
        (QV, {f"{Q0}.lora_A.weight": None}, "no lora_A"),
        (QV, {f"{Q0}.lora_magnitude_vector.weight": torch.ones(32)}, "LoRA"),
    ],
)
def test_adapter_that_does_not_fit_is_refused_and_the_base_is_untouched(
    model_dir: Path,
    pristine: dict[str, torch.Tensor],
    modules: tuple[str, ...],
    change: dict[str, torch.Tensor | None],
    message: str,
) -> None:
    weights = MergedWeights(model_dir)
    state = {**adapter_state(build_policy(_spec(QV), reference=False)), **change}
    tensors = safetensors.torch.save({key: value for key, value in state.items() if value is not None})
    with pytest.raises(WeightSyncError, match=message):
        weights.merge(_payload(tensors, AdapterShape(4, 6.0, modules)))
    for name, weight in _merged(weights, _payload(b"", None)).items():
        assert torch.equal(weight, pristine[name])


class StandInModel(torch.nn.Module):
    """Fused linear layers of an engine, which note that their weights were packed."""

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, modules: Iterable[str]) -> None:
        super().__init__()
        self.packed: list[torch.nn.Module] = []
        for name in modules:
            *path, last = name.split(".")
            parent: torch.nn.Module = self
            for part in path:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, torch.nn.Module())
                parent = parent.get_submodule(part)
            layer = torch.nn.Linear(1, 1, bias=False)
            layer.quant_method = SimpleNamespace(process_weights_after_loading=self.packed.append)  # type: ignore[assignment]
            parent.add_module(last, layer)


def _delivery(model_dir: Path, model: StandInModel) -> MergedDelivery:
    config = SimpleNamespace(
        model_config=SimpleNamespace(dtype=torch.float32), device_config=SimpleNamespace(device_type="cpu")
    )
    engine = SimpleNamespace(
        vllm_config=config, apply_model=lambda change: [change(model)], reset_prefix_cache=lambda: True
    )
    return MergedDelivery(model_dir, engine)


def test_layers_of_a_cpu_engine_get_stacked_weights_and_are_packed_once(model_dir: Path) -> None:
    payload, expected = _adapter()
    stacked = parts_of_modules(
        [name for name in expected if name.split(".")[-2] in LINEAR_MODULES],
        StandInModel.packed_modules_mapping,
    )
    model = StandInModel(stacked)
    _delivery(model_dir, model).load(payload)
    assert len(model.packed) == len(set(map(id, model.packed))) == len(stacked) == 4
    for name, parts in stacked.items():
        whole = torch.cat([expected[part] for part in parts])
        torch.testing.assert_close(
            model.get_submodule(name).weight, whole, atol=1e-6, rtol=0, check_dtype=True
        )


def test_engine_without_a_layer_of_the_base_is_refused_before_it_changes(model_dir: Path) -> None:
    model = StandInModel(["model.layers.0.self_attn.o_proj"])
    with pytest.raises(
        WeightSyncError, match=r"StandInModel has no model\.layers\.0\.mlp.*delivery\.mode=adapter"
    ):
        _delivery(model_dir, model).load(_adapter()[0])
    assert not model.packed
