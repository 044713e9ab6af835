"""The Pareto front and the hypervolume against their definitions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import hypervolume, pareto_front


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda d: st.lists(st.tuples(*[st.integers(0, 3)] * d), min_size=1, max_size=9))
)
def test_front_holds_the_undominated_points(points) -> None:
    def dominates(a, b) -> bool:
        pairs = list(zip(a, b, strict=True))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    expected = [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
    assert pareto_front(points).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, 4), st.integers(-2, 4)), min_size=1, max_size=8),
    st.tuples(st.integers(-1, 2), st.integers(-1, 2)),
)
def test_hypervolume_counts_the_dominated_unit_squares(points, reference) -> None:
    # On whole numbers the area is the number of unit squares whose upper right corner some point reaches.
    squares = sum(
        any(x >= right and y >= top for x, y in points)
        for right in range(reference[0] + 1, 5)
        for top in range(reference[1] + 1, 5)
    )
    assert hypervolume(points, reference) == squares
