"""The verdict in words says no more than the test does."""

from __future__ import annotations

import pytest

from polyray.shelf.preferences.reward_evaluation.statement import about_probes, against


@pytest.mark.parametrize(
    ("difference", "p_value", "parts"),
    [
        (0.05, 0.0002, ("reward beats length: 60.0% ", "55.0%, +5.0 points [+2.0, +8.0]", "p < 0.001")),
        (
            0.02,
            0.21,
            ("is not shown to differ from length: 57.0%", "[-1.0, +5.0]", "p = 0.210; not significant"),
        ),
        (-0.05, 0.004, ("reward is worse than length: 50.0%", "-5.0 points [-8.0, -2.0]", "p = 0.004")),
    ],
)
def test_statement_against_a_baseline_follows_the_test(
    difference: float, p_value: float, parts: tuple[str, ...]
) -> None:
    entry = {"model": "reward", "baseline": "length", "mean": 0.55 + difference, "baseline_mean": 0.55}
    interval = {"difference": difference, "low": difference - 0.03, "high": difference + 0.03}
    sizes = {"n_pairs": 1234, "n_clusters": 210, "primary": {"p_adjusted": p_value}}
    said = against({**entry, **interval, **sizes}, alpha=0.05, confidence=0.95)
    assert all(part in said for part in (*parts, "1,234 pairs in 210 clusters; 95% interval; Holm")), said


def test_statement_about_probes_counts_failed_and_unclear_ones() -> None:
    verdicts = {"a": "warn", "b": "unclear", "c": "warn", "d": "not tested", "e": "pass"}
    probes = {name: {"verdict": verdict, "value": 0.5, "shift": 0.25} for name, verdict in verdicts.items()}
    (said,) = about_probes("m", probes)
    assert "m fails 2 of 4 probes" in said and "a (50% higher, shift +0.25 sd), c (" in said
    assert "unclear on 1 of 4 probes" in said
    (passed,) = about_probes("m", {name: probes[name] for name in "de"})
    assert "passes all 1 probes" in passed
    assert about_probes("m", {}) == []
