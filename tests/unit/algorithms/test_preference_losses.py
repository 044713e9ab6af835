"""Preference losses against transcriptions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyray.algorithms.preference import bradley_terry_loss, squared_loss


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    difference, weight, target = rng.normal(size=7) * 5, rng.random(7), rng.normal(size=7)
    expected = sum(w * -math.log(1 / (1 + math.exp(-d))) for d, w in zip(difference, weight, strict=True))
    found = bradley_terry_loss(torch.from_numpy(difference), torch.from_numpy(weight))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    expected = sum(w * (d - t) ** 2 / 2 for d, w, t in zip(difference, weight, target, strict=True))
    found = squared_loss(*(torch.from_numpy(a) for a in (difference, target, weight)))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(bradley_terry_loss(torch.tensor([-200.0]), torch.ones(1))) == pytest.approx(200.0)
