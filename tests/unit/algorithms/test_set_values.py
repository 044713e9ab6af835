"""Every objective's value of one set, through enumeration, gives the credits of its closed form."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import (
    GroupView,
    enumerated_set_credits,
    polychromic_advantages,
    stale_polychromic_advantages,
)
from polyray.algorithms.polychromic import OBJECTIVES, Objective, group_view, set_values_of
from tests.unit.algorithms.enumeration import CLASSES_V, DISTANCE_VV, QUALITY_V, TOKENS_V

GROUP = [0, 1, 2, 3, 0, 1, 1]


def _view() -> tuple[np.ndarray, GroupView]:
    quality = QUALITY_V[GROUP] * np.linspace(0.6, 1.0, len(GROUP))
    tokens = [TOKENS_V[outcome] for outcome in GROUP]
    return quality, GroupView(CLASSES_V[GROUP], DISTANCE_VV[np.ix_(GROUP, GROUP)], tokens)


@pytest.mark.parametrize(
    ("objective", "floor"),
    [
        (name, floor)
        for name in OBJECTIVES
        for floor in (0.0, 0.3)
        if name != "facility" and not (name == "max" and floor)
    ],
)
def test_set_values_match_the_closed_form_credits(objective: Objective, floor: float) -> None:
    quality, view = _view()
    options = {"objective": objective, "quality_weight": 0.4, "diversity_weight": 0.9, "set_size": 3}
    expected = polychromic_advantages(
        quality,
        **options,
        classes_G=view.classes_G,
        distance_GG=view.distance_GG,
        tokens_G=view.tokens_G,
        quality_floor=floor,
    )
    values = set_values_of(objective, quality, group_view(quality, objective, view, floor))
    credits = (
        0.9 * len(GROUP) * enumerated_set_credits(lambda s: float(values(np.array([s]))[0]), len(GROUP), 3)
    )
    np.testing.assert_allclose(credits, expected.diversity_part_G, atol=1e-12)
    assert np.abs(credits).max() > 1e-3
    fresh = stale_polychromic_advantages(
        quality, np.zeros(len(GROUP)), **options, view=view, quality_floor=floor
    )
    np.testing.assert_allclose(fresh.advantages_G, expected.advantages_G, atol=1e-12)
    np.testing.assert_allclose(fresh.quality_part_G, expected.quality_part_G, atol=1e-12)
