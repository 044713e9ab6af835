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


QUALITY_G = QUALITY_V[GROUP] * np.linspace(0.6, 1.0, len(GROUP))
VIEW = GroupView(
    CLASSES_V[GROUP], DISTANCE_VV[np.ix_(GROUP, GROUP)], [TOKENS_V[outcome] for outcome in GROUP]
)
OBJECTIVES_AND_FLOORS = [
    (name, floor)
    for name in OBJECTIVES
    for floor in (0.0, 0.3)
    if name != "facility" and not (name == "max" and floor)
]


@pytest.mark.parametrize(("objective", "floor"), OBJECTIVES_AND_FLOORS)
def test_set_values_have_the_credits_of_the_closed_form(objective: Objective, floor: float) -> None:
    options = {"objective": objective, "quality_weight": 0.4, "diversity_weight": 0.9, "set_size": 3}
    expected = polychromic_advantages(
        QUALITY_G,
        **options,
        classes_G=VIEW.classes_G,
        distance_GG=VIEW.distance_GG,
        tokens_G=VIEW.tokens_G,
        quality_floor=floor,
    )
    values = set_values_of(objective, QUALITY_G, group_view(QUALITY_G, objective, VIEW, floor))
    credits_G = enumerated_set_credits(lambda s: float(values(np.array([s]))[0]), len(GROUP), 3)
    np.testing.assert_allclose(0.9 * len(GROUP) * credits_G, expected.diversity_part_G, atol=1e-12)
    assert np.abs(credits_G).max() > 1e-4
    fresh = stale_polychromic_advantages(
        QUALITY_G, np.zeros(len(GROUP)), **options, view=VIEW, quality_floor=floor
    )
    np.testing.assert_allclose(fresh.advantages_G, expected.advantages_G, atol=1e-12)
    np.testing.assert_allclose(fresh.quality_part_G, expected.quality_part_G, atol=1e-12)
