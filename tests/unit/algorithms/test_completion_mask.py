"""completion_mask: exact rows, and refused lengths."""

from __future__ import annotations

import pytest
import torch

from polyray.algorithms import completion_mask


@pytest.mark.parametrize("lengths", [[0, 2, 3], torch.tensor([0, 2, 3])])
def test_first_positions_are_true(lengths) -> None:
    mask = completion_mask(lengths, 3)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("lengths", [[1, 4], [-1, 2], [[1, 2]]])
def test_lengths_that_do_not_fit_are_refused(lengths) -> None:
    with pytest.raises(ValueError, match=r"lengths (run from|has shape)"):
        completion_mask(lengths, 3)
