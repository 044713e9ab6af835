"""Packed groups: exactly the values and gradients of separate rows, and only for models where that holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from polyray.models import packing
from polyray.models.logprobs import Rows, completion_logprobs

SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = (3, 3, 3, 5, 2, 2)
COMPLETIONS = (4, 1, 6, 2, 3, 5)
GROUPS = (0, 0, 0, 1, 2, 2)


def rows(grouped: bool) -> Rows:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 23, (6, 12), generator=generator)
    for row in range(1, 6):
        if GROUPS[row] == GROUPS[row - 1]:
            tokens[row, : PROMPTS[row]] = tokens[row - 1, : PROMPTS[row]]
    for row in range(6):
        tokens[row, PROMPTS[row] + COMPLETIONS[row] :] = 0
    group_B = torch.tensor(GROUPS) if grouped else None
    return Rows(tokens, torch.tensor(PROMPTS), torch.tensor(COMPLETIONS), group_B)


def build(config: Any) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double()


@pytest.fixture
def packed_widths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the packed inputs that were built."""
    seen: list[tuple[int, ...]] = []
    original = packing.packed_groups

    def watched(*arguments: torch.Tensor) -> Any:
        result = original(*arguments)
        if result is not None:
            seen.append(tuple(result.arguments["input_ids"].shape))
        return result

    monkeypatch.setattr("polyray.models.logprobs.packed_groups", watched)
    return seen


@pytest.mark.parametrize("config", [Qwen3Config(**SIZES), Qwen2Config(**SIZES), LlamaConfig(**SIZES)])
def test_values_and_gradients_are_those_of_separate_rows(
    config: Any, packed_widths: list[tuple[int, ...]]
) -> None:
    model = build(config)
    weights_BT = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    results = []
    for grouped in (False, True):
        model.zero_grad()
        logprobs_BT, entropy_BT = completion_logprobs(model, rows(grouped), 0.8)
        (logprobs_BT * weights_BT).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        results.append((logprobs_BT, entropy_BT, gradients))
    assert packed_widths == [(3, 14)]  # 3 + 4 + 1 + 6 tokens in the widest of three groups
    for separate, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, separate, atol=2e-7, rtol=1e-6)
    assert all(gradient.abs().max() > 0 for gradient in results[0][2])


def test_models_whose_layers_look_elsewhere_keep_separate_rows(packed_widths: list[tuple[int, ...]]) -> None:
    windowed = Qwen3Config(
        **SIZES, sliding_window=4, use_sliding_window=True, max_window_layers=1, layer_types=None
    )
    assert "sliding_attention" in (windowed.layer_types or [])
    for config in (windowed, MistralConfig(**SIZES)):
        completion_logprobs(build(config), rows(grouped=True))
    assert packed_widths == []


def test_long_groups_and_groups_of_one_stay_separate(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = rows(grouped=True)
    inputs = grouped.input_ids_BL, grouped.prompt_lengths_B, grouped.completion_lengths_B
    assert packing.packed_groups(*inputs, torch.arange(6)) is None
    assert packing.packed_groups(*inputs, torch.tensor(GROUPS)) is not None
    monkeypatch.setattr(packing, "MAX_PACKED_WIDTH", 13)
    assert packing.packed_groups(*inputs, torch.tensor(GROUPS)) is None


def test_selected_rows_keep_their_groups_together() -> None:
    kept = rows(grouped=True).select(torch.tensor([True, False, True, False, True, True]))
    assert kept.group_B is not None
    assert kept.group_B.tolist() == [0, 0, 1, 1]
    assert kept.completion_lengths_B.tolist() == [4, 6, 3, 5]
    assert rows(grouped=False).select(torch.ones(6, dtype=torch.bool)).group_B is None
