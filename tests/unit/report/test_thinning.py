from __future__ import annotations

import numpy as np
import pytest

from polyray.report.thinning import rounded, thinned


def test_ends_and_extremes_of_every_bin_stay() -> None:
    assert thinned([0, 9, 1, 2, 0, 1, 7, 3], limit=6) == [0, 1, 2, 4, 6, 7]
    assert thinned([3, 1, 2], limit=4) == [0, 1, 2]
    assert thinned([], limit=4) == []


def test_no_spike_is_lost_and_the_limit_is_kept() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    values[[1234, 8765]] = (50.0, -50.0)
    kept = thinned(values.tolist(), limit=300)
    assert len(kept) <= 300 and kept == sorted(set(kept))
    assert {0, 1234, 8765, 9999} <= set(kept)
    bins = np.array_split(np.arange(1, 9999), 149)
    for part in bins:
        inside = values[[at for at in kept if part[0] <= at <= part[-1]]]
        assert (inside.min(), inside.max()) == (values[part].min(), values[part].max())


def test_too_small_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"limit=3: .* 4"):
        thinned([1, 2], limit=3)


def test_five_digits_are_drawn() -> None:
    assert rounded([0.123456789, 123456.7, -1e-9, 0.0]) == [0.12346, 123460.0, -1e-9, 0.0]
