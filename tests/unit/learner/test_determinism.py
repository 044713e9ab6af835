"""With several threads, picking the same rows again and again has one gradient, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from polyray.learner.determinism import make_reproducible


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    make_reproducible(2, torch.device("cpu"))
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_gradients_of_rows_that_are_picked_often_are_equal_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2000, 128, generator=generator, requires_grad=True)
    rows = torch.randint(0, 200, (1900,), generator=generator)
    weights = torch.randn(1900, 128, generator=generator)
    gradients = [torch.autograd.grad((hidden[rows] * weights).sum(), hidden)[0] for _ in range(40)]
    assert torch.get_num_threads() == 2
    assert all(torch.equal(gradients[0], other) for other in gradients)
