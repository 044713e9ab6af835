"""Adjusted p-values: by hand, against the step-wise procedure itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import holm

P_VALUES = st.lists(st.integers(0, 100).map(lambda value: value / 100), min_size=1, max_size=9)


def test_by_hand() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]).tolist() == [1.0, 1.0]
    assert holm([0.3]).tolist() == [0.3]


def rejected_by_holm(p_values: list[float], level: float) -> set[int]:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected: set[int] = set()
    for step, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - step):
            break
        rejected.add(i)
    return rejected


@settings(max_examples=50, deadline=None)
@given(P_VALUES, st.sampled_from([0.013, 0.051, 0.207]))
def test_holm_rejects_what_its_procedure_rejects(p_values, level) -> None:
    assert set(np.flatnonzero(holm(p_values) <= level)) == rejected_by_holm(p_values, level)


def test_the_order_given_is_kept() -> None:
    p_values = np.random.default_rng(0).random(8)
    order = np.random.default_rng(1).permutation(8)
    assert holm(p_values[order]) == pytest.approx(holm(p_values)[order])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: holm([0.5, 1.5]), "p_values has values from 0.5 to 1.5"),
        (lambda: holm([-0.1]), "p_values has values from -0.1"),
        (lambda: holm([float("nan")]), r"p_values\[0\]=nan"),
        (lambda: holm([]), "p_values has 0"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
