"""Principal components as a start: the base's outputs at first, PEFT's PiSSA in training, plain LoRA when saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

from polyray.config.model import LoraSpec
from polyray.errors import ConfigError
from polyray.models.adapter_files import read_adapter
from polyray.models.lora import adapter_state, attach_adapter
from polyray.models.pissa import INITIAL, plain_lora, save_plain_lora, start_from_principal_components
from tests.unit.tiny_policy import build_base

SPEC = LoraSpec(rank=4, alpha=12)
TOKENS = torch.tensor([[1, 4, 9, 13, 2], [1, 5, 5, 6, 7]])
BASE_SHA256 = "b" * 64


def attach(spec: LoraSpec = SPEC, dtype: torch.dtype = torch.float32) -> PeftModel:
    base = build_base().to(dtype)  # type: ignore[arg-type]  # transformers' decorator hides self
    return attach_adapter(base, spec, None, base_sha256=BASE_SHA256, seed=0)


def started(dtype: torch.dtype = torch.float32) -> PeftModel:
    model = attach(dtype=dtype)
    start_from_principal_components(model)
    return model


def train(model: torch.nn.Module, steps: int = 5, rate: float = 0.3) -> None:
    """Plain gradient descent on next-token cross-entropy: it sees no signs of singular vectors."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(steps):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            with torch.no_grad():
                parameter -= rate * gradient


@torch.no_grad()
def logits(model: Callable[..., object]) -> Tensor:
    return model(input_ids=TOKENS).logits.float()  # type: ignore[attr-defined]


@torch.no_grad()
def deltas(model: PeftModel) -> dict[str, Tensor]:
    """Changes of each weight by the active adapters."""
    return {
        name: torch.stack([module.get_delta_weight(adapter) for adapter in module.active_adapters]).sum(0)  # type: ignore[operator]
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_adapter_keeps_outputs_and_weights_of_the_base(dtype) -> None:
    base = build_base().to(dtype)
    model = started(dtype)
    torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=0)
    kept = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    assert set(kept) == {name for name, _ in base.named_parameters()}
    assert all(torch.equal(kept[name], parameter) for name, parameter in base.named_parameters())


def test_policy_is_the_best_approximation_and_trained_alone() -> None:
    model = started()
    for _, module in model.named_modules():
        if isinstance(module, LoraLayer):
            singular = torch.linalg.svdvals(module.get_base_layer().weight.double())
            product = module.get_delta_weight("default").double()  # type: ignore[operator]
            torch.testing.assert_close(torch.linalg.svdvals(product)[:4], singular[:4], rtol=1e-5, atol=0)
            rest = torch.linalg.matrix_norm(module.get_base_layer().weight.double() - product)
            torch.testing.assert_close(rest, singular[4:].square().sum().sqrt(), rtol=1e-5, atol=1e-6)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == len(adapter_state(model)) == 14
    assert not any(f".{INITIAL}." in name for name in trainable)


def test_training_equals_that_of_pefts_pissa() -> None:
    ours, modules = started(), list(SPEC.target_modules)
    config = LoraConfig(r=4, lora_alpha=12, init_lora_weights="pissa", target_modules=modules)
    theirs = get_peft_model(build_base(), config)  # type: ignore[arg-type]
    before = logits(ours)
    train(ours)
    train(theirs)
    assert float((logits(ours) - before).abs().max()) > 0.5
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=2e-4)


def test_saved_adapter_is_plain_lora_on_the_original_base(tmp_path: Path) -> None:
    model = started()
    train(model)
    digest = save_plain_lora(model, tmp_path / "adapter", {"base_sha256": BASE_SHA256})
    content, config = read_adapter(tmp_path / "adapter", BASE_SHA256)
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 24, True)
    assert len(digest) == 64
    loaded = PeftModel.from_pretrained(build_base(), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-5)
    expected, actual = deltas(model), deltas(loaded)
    assert max(float(delta.abs().max()) for delta in expected.values()) > 0.01
    for name, delta in expected.items():
        torch.testing.assert_close(actual[name], delta, rtol=0, atol=1e-6)
    # RL continues from it like from any adapter of that shape.
    spec = LoraSpec(rank=8, alpha=24)
    continued = attach_adapter(build_base(), spec, tmp_path / "adapter", base_sha256=BASE_SHA256, seed=0)
    torch.testing.assert_close(logits(continued), logits(model), rtol=0, atol=1e-5)
    assert safetensors.torch.load(content).keys() == adapter_state(continued).keys()


def test_plain_lora_of_an_untrained_adapter_is_zero_and_rounds_well_after_training() -> None:
    model = started()
    untouched = safetensors.torch.load(plain_lora(model)[0])
    for name in (name for name in untouched if ".lora_A." in name):
        product = untouched[name.replace(".lora_A.", ".lora_B.")] @ untouched[name]
        assert torch.equal(product, torch.zeros_like(product))
    train(model, steps=3, rate=0.05)
    weights = safetensors.torch.load(plain_lora(model)[0])
    for name, delta in deltas(model).items():
        factor_a, factor_b = (weights[f"{name}.lora_{factor}.weight"].bfloat16().float() for factor in "AB")
        assert torch.linalg.matrix_norm(3 * factor_b @ factor_a - delta) < 0.01 * torch.linalg.matrix_norm(
            delta
        )
    with pytest.raises(ConfigError, match="save_adapter"):
        plain_lora(attach())


def test_randomised_start_is_close_and_follows_its_seed() -> None:
    exact, fast, again = started(), attach(), attach()
    state = torch.random.get_rng_state()
    for model in (fast, again):
        start_from_principal_components(model, iterations=16, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(logits(fast), logits(build_base()), rtol=0, atol=1e-5)
    for name, weight in adapter_state(fast).items():
        assert torch.equal(weight, adapter_state(again)[name])
    for name, module in exact.named_modules():
        if isinstance(module, LoraLayer):
            weight = module.get_base_layer().weight
            rest, least = (
                float((weight - model.get_submodule(name).get_delta_weight("default")).detach().norm())  # type: ignore[operator]
                for model in (fast, exact)
            )
            assert rest == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LoraSpec(rank=4, dropout=0.1), r"model\.lora\.dropout=0\.1.*\b0\b"),
        (LoraSpec(rank=17), r"model\.lora\.rank=17.*k_proj.*16 x 32.*\b16\b"),
    ],
)
def test_unsupported_pissa_start_is_refused(spec, message) -> None:
    with pytest.raises(ConfigError, match=message):
        start_from_principal_components(attach(spec))
