"""Packed prefix trees: exactly the values and gradients of separate rows, only for models where that holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from polyray.models import packing
from polyray.models.logprobs import Rows, completion_logprobs

SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = (3, 3, 3, 3, 5, 2, 2)
COMPLETIONS = (4, 1, 6, 6, 2, 3, 5)
GROUPS = (0, 0, 0, 0, 1, 2, 2)
"""Row 2 begins as row 0 does, row 3 equals row 2, row 6 shares only the prompt with row 5."""


def rows(grouped: bool) -> Rows:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 23, (len(GROUPS), 12), generator=generator)
    for row in range(1, len(GROUPS)):
        if GROUPS[row] == GROUPS[row - 1]:
            tokens[row, : PROMPTS[row]] = tokens[row - 1, : PROMPTS[row]]
    tokens[2, 3:5] = tokens[0, 3:5]
    tokens[3] = tokens[2]
    for row in range(len(GROUPS)):
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


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers' RMSNorm rounds to float32; here nothing does."""

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return (
            self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    for norm in (Qwen3RMSNorm, Qwen2RMSNorm, LlamaRMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("config", [Qwen3Config(**SIZES), Qwen2Config(**SIZES), LlamaConfig(**SIZES)])
@pytest.mark.parametrize("max_width", [11, 1024])
def test_values_and_gradients_are_those_of_separate_rows(
    config: Any, max_width: int, packed_widths: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_PACKED_WIDTH", max_width)
    model = build(config)
    weights_BT = torch.randn(len(GROUPS), 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    results = []
    for grouped in (False, True):
        model.zero_grad()
        logprobs_BT, entropy_BT = completion_logprobs(model, rows(grouped), 0.8, entropy_gradient=True)
        ((logprobs_BT - 0.3 * entropy_BT) * weights_BT).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        results.append((logprobs_BT, entropy_BT, gradients))
    # 3 + 3 + 5 - 2, 5 + 1 and 2 + 2 + 4 nodes: side by side where that is allowed.
    assert packed_widths == [{11: (3, 9), 1024: (1, 23)}[max_width]]
    for separate, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, separate, atol=1e-12, rtol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in results[0][2])


def test_models_whose_layers_look_elsewhere_keep_separate_rows(packed_widths: list[tuple[int, ...]]) -> None:
    windowed = Qwen3Config(
        **SIZES, sliding_window=4, use_sliding_window=True, max_window_layers=1, layer_types=None
    )
    assert "sliding_attention" in (windowed.layer_types or [])
    for config in (windowed, MistralConfig(**SIZES)):
        completion_logprobs(build(config), rows(grouped=True))
    assert packed_widths == []


def test_rows_that_would_gain_nothing_stay_separate(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = rows(grouped=True)
    inputs = grouped.input_ids_BL, grouped.prompt_lengths_B, grouped.completion_lengths_B
    assert packing.packed_groups(*inputs, torch.tensor(GROUPS)) is not None
    monkeypatch.setattr(packing, "MAX_PACKED_WIDTH", 7)  # row 2 alone has 3 + 5 nodes
    assert packing.packed_groups(*inputs, torch.tensor(GROUPS)) is None
    monkeypatch.undo()
    equal_lengths = torch.full((7,), 4), torch.full((7,), 6)
    assert packing.packed_groups(grouped.input_ids_BL[:, :10], *equal_lengths, torch.arange(7)) is None


def test_selected_rows_keep_their_groups_together() -> None:
    kept = rows(grouped=True).select(torch.tensor([True, False, True, True, False, True, True]))
    assert kept.group_B is not None
    assert kept.group_B.tolist() == [0, 0, 0, 1, 1]
    assert kept.completion_lengths_B.tolist() == [4, 6, 6, 3, 5]
    assert rows(grouped=False).select(torch.ones(7, dtype=torch.bool)).group_B is None
