"""The adapter: fresh, saved, read again, continued, copied as a reference, merged; and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, Qwen3ForCausalLM

from polyray.config.model import LoraSpec
from polyray.errors import ConfigError
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import (
    adapter_bytes,
    adapter_state,
    add_reference,
    attach_adapter,
    merge_then_fresh,
    reference_active,
    save_adapter,
)
from tests.unit.tiny_policy import build_base, move, save_base

SPEC = LoraSpec(rank=4, alpha=8)
TOKENS = torch.tensor([[1, 4, 9, 13, 2], [1, 5, 5, 6, 7]])


def _base() -> Qwen3ForCausalLM:
    return build_base(seed=1, num_hidden_layers=2)


def _attach(base: PreTrainedModel | None = None, warm_start: Path | None = None, seed: int = 0) -> PeftModel:
    return attach_adapter(base or _base(), SPEC, warm_start, base_sha256="b" * 64, seed=seed)


def _perturb(model: PeftModel) -> PeftModel:
    """Set B to non-zero values, as training would."""
    move(model, size=0.1)
    return model


def _trainable(model: PeftModel) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@torch.no_grad()
def _logprobs(model: Callable[..., object]) -> torch.Tensor:
    return model(input_ids=TOKENS).logits.float().log_softmax(-1)  # type: ignore[attr-defined]


@pytest.fixture
def trained(tmp_path: Path) -> tuple[PeftModel, Path]:
    model = _perturb(_attach())
    save_adapter(model, tmp_path / "run" / "adapter", {"base_sha256": "b" * 64, "attempt": 1})
    return model, tmp_path / "run" / "adapter"


def test_fresh_adapter_changes_nothing_and_follows_its_seed() -> None:
    base, state = _base(), torch.random.get_rng_state()
    model = _attach()
    add_reference(_attach())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(_logprobs(model), _logprobs(base), rtol=0, atol=0)
    assert adapter_bytes(_attach(seed=0)) == adapter_bytes(model) != adapter_bytes(_attach(seed=1))
    assert len(_trainable(model)) == 28, "7 modules x 2 layers x (A, B)"
    assert all(".default." in name for name in _trainable(model))
    narrow = _attach(_base().bfloat16())
    assert {p.dtype for p in narrow.parameters() if p.requires_grad} == {torch.float32}
    assert {tensor.dtype for tensor in adapter_state(narrow).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("below", "name"),
    [("models--Qwen--Qwen3-8B/snapshots/9c1b2f", "Qwen/Qwen3-8B"), ("somewhere/base", None)],
)
def test_saved_adapter_names_no_path_and_loads_with_plain_peft(
    tmp_path: Path, below: str, name: str | None
) -> None:
    _base().save_pretrained(tmp_path / below)
    model = _perturb(_attach(load_base(tmp_path / below, "float32")))
    assert str(tmp_path) in str(model.peft_config["default"].base_model_name_or_path)
    directory = tmp_path / "run" / "adapter"
    save_adapter(model, directory, {"base_sha256": "b" * 64})
    files = {"adapter_config.json", "adapter_model.safetensors", "polyray.json"}
    assert {path.name for path in directory.iterdir()} == files
    assert [path.name for path in directory.parent.iterdir()] == ["adapter"]
    text = (directory / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == name
    assert str(tmp_path) not in text
    assert (directory / "adapter_model.safetensors").read_bytes() == adapter_bytes(model)
    continued = _attach(load_base(tmp_path / below, "float32"), warm_start=directory, seed=9)
    assert adapter_bytes(continued) == adapter_bytes(model) and len(_trainable(continued)) == 28
    assert torch.equal(_logprobs(continued), _logprobs(model))
    plain = PeftModel.from_pretrained(_base(), str(directory))
    torch.testing.assert_close(_logprobs(plain), _logprobs(model), rtol=0, atol=3e-6)
    assert float((_logprobs(model) - _logprobs(_base())).abs().max()) > 0.01


def test_second_save_replaces_the_older_adapter(trained: tuple[PeftModel, Path]) -> None:
    model, directory = trained
    digest = save_adapter(_perturb(model), directory, {"base_sha256": "b" * 64})
    content, config = read_adapter(directory, "b" * 64)
    assert content == adapter_bytes(model)
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8.0, True)
    assert config["target_modules"] == sorted(SPEC.target_modules)
    manifest = json.loads((directory / "polyray.json").read_text())
    assert manifest == {"base_sha256": "b" * 64, "adapter_sha256": digest}
    assert [path.name for path in directory.parent.iterdir()] == ["adapter"]


def test_reference_is_a_frozen_copy_that_stays_while_the_policy_moves(
    trained: tuple[PeftModel, Path],
) -> None:
    model = _attach(warm_start=trained[1])
    add_reference(model)
    assert len(_trainable(model)) == 28 and all(".default." in name for name in _trainable(model))
    start = _logprobs(model)
    with reference_active(model):
        torch.testing.assert_close(_logprobs(model), start, rtol=0, atol=0)
    _perturb(model)
    moved = _logprobs(model)
    with pytest.raises(RuntimeError, match="inside"), reference_active(model):
        torch.testing.assert_close(_logprobs(model), start, rtol=0, atol=0)
        raise RuntimeError("inside")
    torch.testing.assert_close(_logprobs(model), moved, rtol=0, atol=0)
    assert float((moved - start).abs().max()) > 0.01
    assert not any("reference" in name for name in adapter_state(model))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 8}, r"rank=4.*model\.lora\.rank=8"),
        ({"alpha": 16}, r"alpha=8\.0.*model\.lora\.alpha=16"),
        ({"target_modules": ("q_proj",)}, r"model\.lora\.target_modules=\['q_proj'\]"),
        ({"target_modules": ("q_proj", "fc1")}, r"\['fc1'\].*Qwen3ForCausalLM"),
    ],
)
def test_adapter_of_another_shape_is_refused(
    trained: tuple[PeftModel, Path], changed: dict[str, object], message: str
) -> None:
    spec = LoraSpec.model_validate({**SPEC.model_dump(), **changed})
    start = None if "fc1" in spec.target_modules else trained[1]
    with pytest.raises(ConfigError, match=message):
        attach_adapter(_base(), spec, start, base_sha256="b" * 64, seed=0)


def _foreign(directory: Path, **options: Any) -> PeftModel:
    """An adapter that PEFT alone wrote, on all of SPEC's modules, with options of its own."""
    torch.manual_seed(5)
    options = {"r": 4, "lora_alpha": 8, "target_modules": list(SPEC.target_modules), **options}
    model = _perturb(get_peft_model(_base(), LoraConfig(**options)))  # type: ignore[arg-type]
    model.save_pretrained(str(directory))
    return model.eval()


def test_warm_start_from_rslora_keeps_its_scale(tmp_path: Path) -> None:
    model = _foreign(tmp_path, use_rslora=True)
    spec = SPEC.model_copy(update={"alpha": 8 * math.sqrt(4)})
    continued = attach_adapter(_base(), spec, tmp_path, base_sha256="b" * 64, seed=0)
    torch.testing.assert_close(_logprobs(continued), _logprobs(model), rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match=r"alpha=16\.0.*model\.lora\.alpha=16\.0$"):
        _attach(warm_start=tmp_path)


def test_warm_start_on_all_linear_modules_keeps_its_outputs(tmp_path: Path) -> None:
    model = _foreign(tmp_path, target_modules="all-linear")
    named = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert "model.layers.0.self_attn.q_proj" in named
    torch.testing.assert_close(_logprobs(_attach(warm_start=tmp_path)), _logprobs(model), rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("alpha_pattern", {"q_proj": 32}, "alpha_pattern"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights='pissa_niter_4'"),
        ("layers_to_transform", [0], "tensors"),
        ("exclude_modules", r".*layers\.0.*", "tensors"),
        ("target_modules", r".*\.(q|k|v|o|gate|up|down)_proj", "target_modules"),
    ],
)
def test_warm_start_that_is_no_plain_lora_is_refused(
    tmp_path: Path, key: str, value: object, named: str
) -> None:
    """test_adapter_payload.py has the other options."""
    _foreign(tmp_path, **{key: value})
    with pytest.raises(ConfigError, match=named):
        _attach(warm_start=tmp_path)


def test_adapter_that_is_damaged_or_of_another_base_is_refused(trained: tuple[PeftModel, Path]) -> None:
    model, directory = trained
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        read_adapter(directory.parent, "b" * 64)
    with pytest.raises(ConfigError, match=r"b{12}.*c{12}"):
        read_adapter(directory, "c" * 64)
    weights = directory / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match="sha256"):
        read_adapter(directory, "b" * 64)
    weights.write_bytes(content)
    (directory / "polyray.json").unlink()
    assert read_adapter(directory, "any")[0] == adapter_bytes(model), "a foreign adapter has no manifest"
    weights.unlink()
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors"):
        read_adapter(directory, "b" * 64)


def test_merge_then_fresh_writes_a_base_once(trained: tuple[PeftModel, Path], tmp_path: Path) -> None:
    model, adapter = trained
    base_dir = save_base(tmp_path / "base", num_hidden_layers=2)
    _base().save_pretrained(base_dir)

    def merge() -> Path:
        target = tmp_path / "merged"
        return merge_then_fresh(base_dir, adapter, base_sha256="b" * 64, dtype="float32", target_dir=target)

    merged = merge()
    torch.testing.assert_close(_logprobs(load_base(merged, "float32")), _logprobs(model), rtol=0, atol=1e-5)
    assert base_fingerprint(merged) != base_fingerprint(base_dir)
    written = (merged / "config.json").stat().st_mtime_ns
    assert merge() == merged
    assert (merged / "config.json").stat().st_mtime_ns == written
