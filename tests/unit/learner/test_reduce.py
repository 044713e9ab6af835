"""Named sums, and gradients divided by a global denominator; over ranks, in test_step_ranks.py."""

from __future__ import annotations

import torch

from polyray.learner.reduce import Sums, sum_gradients


def test_sums_give_totals_means_and_maxima_and_zero_where_nothing_was_added() -> None:
    sums = Sums(("named",), ("top",))
    sums.add("reward", 3.0, 4)
    sums.add("reward", 2.0, 6)
    for value in (-5.0, -3.0, -4.0):
        sums.maximum("margin", value)
    sums.reduce()
    assert (sums.total("reward"), sums.mean("reward"), sums.largest("margin")) == (5.0, 0.5, -3.0)
    assert sums.names() == ["named", "reward"]
    assert (sums.total("named"), sums.mean("named"), sums.mean("other")) == (0, 0, 0)
    assert (sums.largest("top"), sums.largest("other")) == (0, 0)


def test_gradients_are_divided_and_missing_ones_become_zero() -> None:
    first, second = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2))
    first.grad = torch.arange(6.0).reshape(2, 3)
    sum_gradients([first, second], divide_by=4.0)
    assert first.grad.tolist() == [[0, 0.25, 0.5], [0.75, 1.0, 1.25]]
    assert second.grad is not None
    assert second.grad.tolist() == [0, 0]
