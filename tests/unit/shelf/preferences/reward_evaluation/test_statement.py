"""The verdict in words says no more than the test does."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.shelf.preferences.reward_evaluation.statement import about_probes, against


def entry(difference: float, p_value: float) -> dict[str, Any]:
    return {
        "model": "reward",
        "baseline": "length",
        "mean": 0.55 + difference,
        "baseline_mean": 0.55,
        "difference": difference,
        "low": difference - 0.03,
        "high": difference + 0.03,
        "n_pairs": 1234,
        "n_clusters": 210,
        "primary": {"p_adjusted": p_value},
    }


@pytest.mark.parametrize(
    ("difference", "p_value", "expected"),
    [
        (
            0.05,
            0.0002,
            "reward beats length: 60.0% of pairs right against 55.0%, +5.0 points [+2.0, +8.0], p < 0.001 "
            "(1,234 pairs in 210 clusters; 95% interval; Holm).",
        ),
        (
            0.02,
            0.21,
            "reward is not shown to differ from length: 57.0% of pairs right against 55.0%, +2.0 points "
            "[-1.0, +5.0], p = 0.210; not significant (1,234 pairs in 210 clusters; 95% interval; Holm).",
        ),
        (
            -0.05,
            0.004,
            "reward is worse than length: 50.0% of pairs right against 55.0%, -5.0 points [-8.0, -2.0], p = 0.004 "
            "(1,234 pairs in 210 clusters; 95% interval; Holm).",
        ),
    ],
)
def test_sentences(difference: float, p_value: float, expected: str) -> None:
    assert against(entry(difference, p_value), alpha=0.05, confidence=0.95) == expected


def test_probes_in_words() -> None:
    def probe(verdict: str, value: float = 0.5) -> dict[str, Any]:
        return {"verdict": verdict, "value": value, "shift": 0.25}

    assert about_probes("m", {"a": probe("pass"), "b": probe("not tested")}) == [
        "m passes all 1 probes for reward hacking."
    ]
    assert about_probes("m", {"a": probe("warn", 0.75), "b": probe("unclear"), "c": probe("warn")}) == [
        "m fails 2 of 3 probes for reward hacking: a (75% higher, shift +0.25 sd), c (50% higher, shift +0.25 sd); "
        "it is unclear on 1 of 3 probes for reward hacking: b (50% higher, shift +0.25 sd)."
    ]
    assert about_probes("m", {}) == []
