"""Log-probs of completions against a plain full forward pass; chunks change neither value nor gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polyray.models import logprobs, packing
from polyray.models.logprobs import Rows, completion_logprobs
from tests.unit.tiny_policy import NUM_FACTORS, SHAPE, VOCABULARY, build_base, build_policy

PROMPTS = (3, 1, 5, 2)
COMPLETIONS = (4, 6, 1, 2)


def _rows() -> Rows:
    generator = torch.Generator().manual_seed(0)
    width = max(prompt + completion for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True))
    tokens = torch.randint(3, VOCABULARY, (len(PROMPTS), width), generator=generator)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        tokens[row, prompt + completion :] = 0
    return Rows(tokens, torch.tensor(PROMPTS), torch.tensor(COMPLETIONS))


def _expected(model: torch.nn.Module, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row alone and without padding, token by token, in float64 from the logits on."""
    rows = _rows()
    values = torch.zeros(len(PROMPTS), max(COMPLETIONS), dtype=torch.float64)
    entropies = torch.zeros_like(values)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        tokens = rows.input_ids_BL[row, : prompt + completion]
        logits = model(input_ids=tokens[None], use_cache=False).logits[0].double() / temperature
        for position in range(completion):
            probabilities = logits[prompt + position - 1].exp() / logits[prompt + position - 1].exp().sum()
            values[row, position] = probabilities[tokens[prompt + position]].log()
            entropies[row, position] = -sum(p * p.log() for p in probabilities)
    return values, entropies


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_logprobs_equal_a_full_forward_pass_of_each_row_alone(temperature: float) -> None:
    model = build_policy()
    with torch.no_grad():
        values, entropies = completion_logprobs(model, _rows(), temperature)
        expected, expected_entropies = _expected(model, temperature)
    torch.testing.assert_close(values.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(entropies.double(), expected_entropies, atol=2e-6, rtol=0)
    assert expected_entropies[expected_entropies > 0].std() > 0.02  # distributions that differ


def test_padding_is_zero_and_its_tokens_do_not_matter() -> None:
    model, rows = build_base(), _rows()
    values, entropies = completion_logprobs(model, rows)
    mask = rows.mask_BT
    assert mask.sum(1).tolist() == list(COMPLETIONS)
    assert values[~mask].abs().max() == entropies[~mask].abs().max() == 0
    assert values[mask].max() < 0
    other = torch.where(rows.input_ids_BL == 0, 17, rows.input_ids_BL)
    changed = Rows(other, rows.prompt_lengths_B, rows.completion_lengths_B)
    assert torch.equal(values, completion_logprobs(model, changed)[0])


def _gradients(temperature: float) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    model = build_policy()
    weights = torch.linspace(-1, 1, len(PROMPTS) * max(COMPLETIONS)).reshape(len(PROMPTS), -1)
    values, entropies = completion_logprobs(model, _rows(), temperature)
    assert not entropies.requires_grad
    (values * weights).sum().backward()
    return values, entropies, [p.grad for p in model.parameters() if p.grad is not None]


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _gradients(0.8)
    calls = []
    original = logprobs._head_chunk
    monkeypatch.setattr(
        logprobs, "_head_chunk", lambda *args: (calls.append(len(args[2])), original(*args))[1]
    )
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 4 * VOCABULARY + 5)
    chunked = _gradients(0.8)
    assert calls[:4] == [4, 4, 4, 1]  # 13 tokens; the backward pass runs them again
    assert len(calls) == 8
    torch.testing.assert_close(chunked[0], whole[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked[1], whole[1], atol=1e-6, rtol=0)
    assert len(chunked[2]) == len(whole[2]) == NUM_FACTORS
    for actual, expected in zip(chunked[2], whole[2], strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_logits_beyond_one_chunk_are_not_kept_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows of 6, 6, 5 and 3 positions run apart: inputs with 10, 1 and 2 tokens, none of them above a chunk of 10.
    monkeypatch.setattr(packing, "PASS_POSITIONS", 0)
    monkeypatch.setattr(packing, "LENGTH_RATIO", 1.0)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1] == VOCABULARY and tensor.shape[0] != SHAPE["hidden_size"]:  # not the head
            kept.append(tensor.numel() // VOCABULARY)
        return tensor

    def tokens_kept(tokens_per_chunk: int) -> list[int]:
        kept.clear()
        monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", tokens_per_chunk * VOCABULARY)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            completion_logprobs(build_policy(), _rows())
        return kept

    assert tokens_kept(sum(COMPLETIONS)) == [10, 1, 2]
    assert tokens_kept(10) == []


def test_entropy_has_its_gradient_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, rows = build_policy().double(), _rows()
    total = torch.zeros((), dtype=torch.float64)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        logits = exact(input_ids=rows.input_ids_BL[row : row + 1, : prompt + completion]).logits
        distribution = (logits[0, prompt - 1 : -1] / 0.8).softmax(-1)
        total = total - (distribution * distribution.log()).sum()
    total.backward()
    for chunk in (logprobs.LOGITS_PER_CHUNK, 4 * VOCABULARY):
        monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", chunk)
        model = build_policy()
        _, entropies = completion_logprobs(model, rows, 0.8, entropy_gradient=True)
        assert float(entropies.sum().detach()) == pytest.approx(float(total.detach()), rel=1e-6)
        entropies.sum().backward()
        for one, other in zip(model.parameters(), exact.parameters(), strict=True):
            if one.grad is not None and other.grad is not None:
                torch.testing.assert_close(one.grad.double(), other.grad, atol=1e-5, rtol=1e-4)
                assert other.grad.abs().max() > 1e-3


def test_logprobs_of_capped_logits_take_the_forward_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_base()
    plain = completion_logprobs(model, _rows())[0]
    forward = type(model).forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        output: Any = forward(self, *args, **kwargs)
        output.logits = 2.0 * torch.tanh(output.logits / 2.0)
        return output

    monkeypatch.setattr(type(model), "forward", capped)
    model.config.final_logit_softcapping = 2.0
    with torch.no_grad():
        values = completion_logprobs(model, _rows())[0]
        expected = _expected(model, 1.0)[0]
    torch.testing.assert_close(values.double(), expected, atol=1e-6, rtol=0)
    assert (values - plain).abs().max() > 0.1
    rows_read: list[int] = []
    log_softmax = torch.Tensor.log_softmax

    def note(logits: torch.Tensor, dim: int) -> torch.Tensor:
        rows_read.append(len(logits))
        return log_softmax(logits, dim)

    monkeypatch.setattr(torch.Tensor, "log_softmax", note)
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 4 * VOCABULARY)
    with torch.no_grad():
        torch.testing.assert_close(completion_logprobs(model, _rows())[0], values, atol=1e-6, rtol=0)
    assert max(rows_read) == 4 and sum(rows_read) == sum(COMPLETIONS)
