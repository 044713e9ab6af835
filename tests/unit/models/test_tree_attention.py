"""Attention within trees: values of one mask over everything, pairs of two trees never computed, sdpa otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from polyray.models.loading import load_base
from polyray.models.packing import is_packable
from polyray.models.tree_attention import TREE_ATTENTION, attend_within_trees

HEADS, KEY_HEADS, SIZE = 4, 2, 8
LENGTHS = (3, 5, 1)


class Layer(torch.nn.Module):
    """The part of an attention layer that transformers' functions read."""

    num_key_value_groups = HEADS // KEY_HEADS
    is_causal = True


def states() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(LENGTHS), SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def tree_masks() -> torch.Tensor:
    """[trees, 1, 5, 5] causal, but the last position of the second tree does not see the one before it."""
    masks = torch.ones(len(LENGTHS), 1, 5, 5, dtype=torch.bool).tril()
    masks[1, 0, 4, 3] = False
    return masks


def whole_mask() -> torch.Tensor:
    """[9, 9] bool: those masks in one."""
    parts = (mask[0, :n, :n].double() for mask, n in zip(tree_masks(), LENGTHS, strict=True))
    return torch.block_diag(*parts).bool()


def test_attention_within_trees_equals_one_mask_over_all_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = states()
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=whole_mask()
    ).transpose(1, 2)
    widths: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        widths.append(query.shape[2])
        return attend(query, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    found, _ = attend_within_trees(Layer(), query, key, value, tree_masks(), tree_lengths=LENGTHS)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)
    assert widths == list(LENGTHS)


def test_gradients_in_bfloat16_are_as_near_to_exact_as_torchs() -> None:
    draw = torch.Generator().manual_seed(1)
    exact = [states.requires_grad_() for states in states()]
    weights = torch.randn((1, sum(LENGTHS), HEADS, SIZE), generator=draw, dtype=torch.float64)

    def gradients(given: list[torch.Tensor], lengths: tuple[int, ...] | None) -> torch.Tensor:
        mask = tree_masks() if lengths else whole_mask()[None, None]
        query, key, value = given
        found, _ = attend_within_trees(Layer(), query, key, value, mask, tree_lengths=lengths, scaling=0.3)
        parts = torch.autograd.grad((found.double() * weights).sum(), given)
        return torch.cat([part.flatten().double() for part in parts])

    expected = gradients(exact, LENGTHS)
    rounded = [states.detach().bfloat16().requires_grad_() for states in exact]
    errors = [float((gradients(rounded, of) - expected).norm() / expected.norm()) for of in (LENGTHS, None)]
    assert errors[0] < 1.3 * errors[1] < 0.02


def test_loaded_model_pads_and_samples_as_with_sdpa(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": 23,
    }
    heads: dict[str, Any] = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": SIZE}
    LlamaForCausalLM(LlamaConfig(**shape, **heads)).save_pretrained(tmp_path)
    model: Any = load_base(tmp_path, "float32")
    assert model.config._attn_implementation == TREE_ATTENTION
    assert is_packable(model.config)
    ids, mask = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    answers = []
    for name in (TREE_ATTENTION, "sdpa"):
        model.set_attn_implementation(name)
        logits = model(input_ids=ids, attention_mask=mask).logits
        answer = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=4)
        answers.append((logits, answer))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])
    alone = model(input_ids=ids[:1, 2:]).logits
    torch.testing.assert_close(answers[0][0][:1, 2:], alone, atol=1e-5, rtol=1e-5)
