"""LoRA layers in the dtype of the base give PEFT's outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from polyray.models.lora_linear import use_base_dtype

TOKENS = torch.tensor([[1, 4, 9, 13, 2], [1, 5, 5, 6, 7]])
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _model(dtype: torch.dtype, *, ours: bool) -> PeftModel:
    """Two layers with B drawn from a seed, in training mode without dropout."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=28,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=32,
        attention_bias=True,
    )
    model: Any = get_peft_model(
        Qwen3ForCausalLM(config), LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "lora_" not in name or dtype == torch.float64:
            parameter.data = parameter.data.to(dtype)
    if ours:
        use_base_dtype(model)
    return model


def _outputs_and_gradients(model: PeftModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(input_ids=TOKENS).logits
    logits.double().log_softmax(-1)[..., 3].sum().backward()
    return logits.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_outputs_and_gradients_equal_pefts(dtype: torch.dtype, tolerance: float) -> None:
    expected, expected_gradients = _outputs_and_gradients(_model(dtype, ours=False))
    actual, gradients = _outputs_and_gradients(_model(dtype, ours=True))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert len(gradients) == len(expected_gradients) == 2 * 2 * len(TARGETS)
    for gradient, of_peft in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, of_peft, rtol=tolerance, atol=tolerance)


def test_gradients_of_bfloat16_are_as_near_to_exact_as_those_of_autocast() -> None:
    _, exact = _outputs_and_gradients(_model(torch.float64, ours=False))
    flat = torch.cat([gradient.flatten() for gradient in exact])
    errors: list[float] = []
    for ours in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=not ours):
            _, gradients = _outputs_and_gradients(_model(torch.bfloat16, ours=ours))
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found = torch.cat([gradient.flatten() for gradient in gradients]).double()
        errors.append(float((found - flat).norm() / flat.norm()))
    assert errors[1] < 1.2 * errors[0] < 0.05


def test_adapter_is_rounded_to_the_dtype_of_the_base() -> None:
    model = _model(torch.bfloat16, ours=True)
    rounded = _model(torch.bfloat16, ours=True)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if "lora_" in name:
                parameter.copy_(parameter.bfloat16())
        assert torch.equal(model(input_ids=TOKENS).logits, rounded(input_ids=TOKENS).logits)


def test_adapters_that_cancel_leave_the_base_in_bfloat16() -> None:
    model: Any = _model(torch.bfloat16, ours=True)
    model.add_adapter("minus", model.peft_config["default"])
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name in [name for name in weights if ".default." in name]:
            sign = -1 if "lora_B" in name else 1
            weights[name.replace(".default.", ".minus.")].copy_(sign * weights[name])
        with model.disable_adapter():
            plain = model(input_ids=TOKENS).logits
        assert not torch.equal(plain, model(input_ids=TOKENS).logits)
        model.base_model.set_adapter(["default", "minus"])
        torch.testing.assert_close(model(input_ids=TOKENS).logits, plain, rtol=0, atol=1e-5)
        base: Any = model.get_base_model()
        model.unload()
        assert torch.equal(plain, base(input_ids=TOKENS).logits)
