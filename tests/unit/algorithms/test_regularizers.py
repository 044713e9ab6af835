"""BA-LoRA's regularisers and their gradients against literal float64 transcriptions with loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from polyray.algorithms import consistency_loss, spectral_loss, top_entropy_loss

MASK_BT = torch.tensor([[True, True, False, True], [False, True, True, False]])


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    total = math.fsum(math.exp(value / temperature) for value in values)
    return [math.exp(value / temperature) / total for value in values]


def masked_rows(logits_BTV: np.ndarray) -> list[list[float]]:
    return [logits_BTV[b, t].tolist() for b in range(2) for t in range(4) if MASK_BT[b, t]]


def literal_consistency(logits: np.ndarray, base: np.ndarray, temperature: float) -> float:
    total = 0.0
    for student, teacher in zip(masked_rows(logits), masked_rows(base), strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total


def literal_top_entropy(logits: np.ndarray, top: int) -> float:
    total = 0.0
    for row in masked_rows(logits):
        candidates = softmax(sorted(row, reverse=True)[:top])
        total += sum(p * math.log(p) for p in candidates)
    return total


def literal_spectrum(rows: np.ndarray, top: int, norm: str) -> float:
    gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    singular = sorted(np.sqrt(np.maximum(np.linalg.eigvalsh(np.array(gram)), 0)), reverse=True)
    frobenius = math.sqrt(sum(x * x for row in rows for x in row))
    return -sum(singular[:top]) / (frobenius if norm == "frobenius" else sum(singular))


def check(loss: Callable[[Tensor], Tensor], literal: Callable[[np.ndarray], float], logits: Tensor) -> None:
    """Value, and gradient by central differences of the transcription."""
    value = loss(logits)
    start = logits.detach().numpy()
    assert value.item() == pytest.approx(literal(start), abs=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = np.zeros_like(start)
    step = 1e-5
    for index in np.ndindex(start.shape):
        shift = np.zeros_like(start)
        shift[index] = step
        expected[index] = (literal(start + shift) - literal(start - shift)) / (2 * step)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_consistency_loss_equals_its_transcription(temperature) -> None:
    base = random_logits(2, 4, 6, seed=1)
    check(
        lambda z: consistency_loss(z, base, MASK_BT, temperature=temperature)[0],
        lambda z: literal_consistency(z, base.detach().numpy(), temperature),
        random_logits(2, 4, 6),
    )
    # The teacher is constant, and agreeing with it costs nothing.
    value, num_positions = consistency_loss(base.detach().clone().requires_grad_(), base, MASK_BT)
    assert (value.item(), num_positions) == (0.0, 5)
    value.backward()
    assert base.grad is None


@pytest.mark.parametrize("top", [2, 4, 20])
def test_top_entropy_loss_equals_its_transcription(top) -> None:
    logits = random_logits(2, 4, 6, seed=2)
    assert top_entropy_loss(logits, MASK_BT, top=top)[1] == 5
    check(lambda z: top_entropy_loss(z, MASK_BT, top=top)[0], lambda z: literal_top_entropy(z, top), logits)


@pytest.mark.parametrize(
    ("top", "norm"), [(1, "frobenius"), (3, "frobenius"), (2, "nuclear"), (9, "frobenius")]
)
def test_spectral_loss_equals_its_transcription(top, norm) -> None:
    check(
        lambda logits: spectral_loss(logits, MASK_BT, top=top, norm=norm),
        lambda z: literal_spectrum(np.array(masked_rows(z)), top, norm),
        random_logits(2, 4, 6, seed=3),
    )


def test_spectral_loss_of_one_direction_and_of_even_ones_equals_its_bounds() -> None:
    rows = torch.outer(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 1.0, 0.0, 2.0]))
    assert spectral_loss(rows, top=1).item() == pytest.approx(-1)
    assert spectral_loss(torch.eye(4), top=2, norm="nuclear").item() == pytest.approx(-0.5)
    assert spectral_loss(torch.zeros(3, 2)).item() == 0.0


def test_randomised_singular_values_are_close_and_follow_their_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    decay = torch.diag(0.7 ** torch.arange(40, dtype=torch.float64))
    logits = (
        random_logits(60, 40, seed=4).detach() @ decay @ random_logits(40, 200, seed=5).detach()
    ).requires_grad_()
    exact = spectral_loss(logits, top=4)
    drawn = spectral_loss(logits, top=4, generator=generator)
    again = spectral_loss(logits, top=4, generator=torch.Generator().manual_seed(0))
    assert drawn.item() == again.item()
    assert 0 < drawn.item() - exact.item() < 1e-4  # a projection loses energy
    gradients = [torch.autograd.grad(value, logits)[0] for value in (exact, drawn)]
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


def test_regularizers_widen_half_precision_and_ignore_padding() -> None:
    logits, base = (random_logits(2, 4, 6, seed=seed).detach().bfloat16().double() for seed in (0, 1))
    for loss in (
        lambda z: consistency_loss(z, base.to(z.dtype), MASK_BT)[0],
        lambda z: top_entropy_loss(z, MASK_BT)[0],
        lambda z: spectral_loss(z, MASK_BT),
    ):
        narrow = loss(logits.bfloat16())
        assert narrow.dtype == torch.float32
        assert narrow.item() == pytest.approx(loss(logits).item(), rel=1e-5)
        padded = torch.where(MASK_BT[..., None], logits, torch.full_like(logits, math.nan))
        assert loss(padded).item() == loss(logits).item()
    empty = torch.zeros(2, 4, dtype=torch.bool)
    assert consistency_loss(logits, base, empty)[0].item() == 0
    assert top_entropy_loss(logits, empty)[0].item() == spectral_loss(logits, empty).item() == 0
