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
from polyray.models.tree_attention import TREE_ATTENTION

SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = (3, 3, 3, 3, 5, 2, 2)
COMPLETIONS = (4, 1, 6, 6, 2, 3, 5)
GROUPS = (0, 0, 0, 0, 1, 2, 2)
"""Row 2 begins as row 0 does, row 3 equals row 2, row 6 shares only the prompt with row 5."""


def rows(grouped: bool, copies: int = 1) -> Rows:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 23, (len(GROUPS), 12), generator=generator)
    for row in range(1, len(GROUPS)):
        if GROUPS[row] == GROUPS[row - 1]:
            tokens[row, : PROMPTS[row]] = tokens[row - 1, : PROMPTS[row]]
    tokens[2, 3:5] = tokens[0, 3:5]
    tokens[3] = tokens[2]
    for row in range(len(GROUPS)):
        tokens[row, PROMPTS[row] + COMPLETIONS[row] :] = 0
    parts = tokens, torch.tensor(PROMPTS), torch.tensor(COMPLETIONS), torch.tensor(GROUPS)
    ids_BL, prompts_B, completions_B, group_B = (part.repeat_interleave(copies, 0) for part in parts)
    return Rows(ids_BL, prompts_B, completions_B, group_B if grouped else None)


def build(config: Any) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation=TREE_ATTENTION).double()


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers' RMSNorm rounds to float32; here nothing does."""

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return (
            self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    for norm in (Qwen3RMSNorm, Qwen2RMSNorm, LlamaRMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


def shapes(config: Any, given: Rows, one_pass: bool = False) -> list[tuple[bool, tuple[int, ...]]]:
    """(whether trees, [sequences, width]) of every input."""
    inputs = packing.model_inputs(
        config,
        given.input_ids_BL,
        given.prompt_lengths_B,
        given.completion_lengths_B,
        given.group_B,
        one_pass=one_pass,
    )
    return [("attention_mask" in one.arguments, tuple(one.arguments["input_ids"].shape)) for one in inputs]


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("config", [Qwen3Config(**SIZES), Qwen2Config(**SIZES), LlamaConfig(**SIZES)])
@pytest.mark.parametrize(
    ("max_width", "copies", "expected"),
    [
        (512, 1, [(True, (1, 23))]),  # 3 + 3 + 5 - 2, 5 + 1 and 2 + 2 + 4 nodes side by side
        (7, 3, [(True, (1, 22)), (False, (6, 8))]),  # rows 2 and 3 have 3 + 5 positions; 2 + 2 + 4 are cut
    ],
)
def test_packed_values_and_gradients_equal_those_of_separate_rows(
    config: Any,
    max_width: int,
    copies: int,
    expected: list[tuple[bool, tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(config)
    monkeypatch.setattr(packing, "packed_width", lambda config: max_width)
    assert shapes(model.config, rows(True, copies)) == expected
    assert shapes(model.config, rows(False, copies)) == [(False, (7 * copies, 8))]
    generator = torch.Generator().manual_seed(2)
    weights_BT = torch.randn(len(GROUPS) * copies, 6, generator=generator, dtype=torch.float64)
    results = []
    for grouped in (False, True):
        model.zero_grad()
        logprobs_BT, entropy_BT = completion_logprobs(
            model, rows(grouped, copies), 0.8, entropy_gradient=True
        )
        ((logprobs_BT - 0.3 * entropy_BT) * weights_BT).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        results.append((logprobs_BT, entropy_BT, gradients))
    for separate, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, separate, atol=1e-12, rtol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in results[0][2])


@pytest.mark.usefixtures("exact_norms")
def test_rows_of_different_lengths_run_in_passes_of_like_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(MistralConfig(**SIZES))
    whole = completion_logprobs(model, rows(grouped=True))[0]
    monkeypatch.setattr(packing, "PASS_POSITIONS", 3)
    # Rows of 6, 3, 8, 8, 6, 4 and 6 positions: 6 < .8 x 8 saves 2 x 5, then 4 < .8 x 6 saves 2 x 2.
    assert shapes(model.config, rows(grouped=True)) == [(False, (2, 8)), (False, (3, 6)), (False, (2, 4))]
    parts = completion_logprobs(model, rows(grouped=True))[0]
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-12)


def test_rows_stay_separate_without_a_gain_or_with_sliding_attention() -> None:
    config = build(Qwen3Config(**SIZES)).config
    tokens, sevens = rows(grouped=True).input_ids_BL[:, :10], torch.full((7,), 6)
    same = Rows(tokens, torch.full((7,), 4), sevens, torch.zeros(7, dtype=torch.int64))
    apart = Rows(tokens, torch.full((7,), 4), sevens, torch.arange(7))
    assert shapes(config, apart) == [(False, (7, 9))]
    assert shapes(config, same)[0][0]
    windows: dict[str, Any] = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}
    windowed = Qwen3Config(**SIZES, **windows, layer_types=None)
    assert "sliding_attention" in (windowed.layer_types or [])
    for config in (windowed, MistralConfig(**SIZES)):
        assert shapes(build(config).config, rows(grouped=True)) == [(False, (7, 8))]
    # Linear weights of a layer over 2 x 3 x 32 query features: 32 x (2 x 32 + 2 x 8 + 3 x 1360) / (2 x 3 x 32).
    wider: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 1360}
    for changed, width in (
        (wider, 693),
        ({}, packing.MIN_WIDTH),
        ({"intermediate_size": 10**6}, packing.MAX_WIDTH),
    ):
        assert packing.packed_width(Qwen3Config(**dict[str, Any](SIZES | changed))) == width


def test_one_pass_packs_all_rows_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(Qwen3Config(**SIZES)).config
    assert shapes(config, rows(True, 3), one_pass=True) == shapes(config, rows(True, 3))
    monkeypatch.setattr(packing, "packed_width", lambda config: 7)
    assert len(shapes(config, rows(True, 3))) == 2
    assert shapes(config, rows(True, 3), one_pass=True) == [(False, (21, 8))]


def test_selected_rows_keep_their_groups_together() -> None:
    kept = rows(grouped=True).select(torch.tensor([True, False, True, True, False, True, True]))
    assert kept.group_B is not None
    assert kept.group_B.tolist() == [0, 0, 0, 1, 1]
    assert kept.completion_lengths_B.tolist() == [4, 6, 6, 3, 5]
    assert rows(grouped=False).select(torch.ones(7, dtype=torch.bool)).group_B is None


@pytest.mark.parametrize(("grouped", "masked"), [(True, True), (False, False)])
def test_separate_rows_need_no_mask_for_flash_kernels(
    grouped: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, attn_mask: Any = None, is_causal: bool = False, **others: Any) -> torch.Tensor:
        seen.append((attn_mask is not None, is_causal))
        return attend(*args, attn_mask=attn_mask, is_causal=is_causal, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(packing, "PASS_POSITIONS", 0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES), attn_implementation=TREE_ATTENTION).eval()
    completion_logprobs(model, rows(grouped))
    assert set(seen) == {(masked, not masked)}
