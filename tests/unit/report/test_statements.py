"""Numbers and statements of a page: words follow intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.report.arms import Arm
from polyray.report.headline import Differences, build_headline, caveats
from polyray.report.numbers import Interval, bounds, decimal, is_number, percent, signed
from polyray.report.run_data import Evaluation, TrainingRun
from polyray.report.statements import agreed_direction, describe, findings

UP, DOWN, NONE = Interval(0.3, 0.2, 0.4), Interval(-0.3, -0.4, -0.2), Interval(0.01, -0.02, 0.04)


def arm(label: str, algorithm: dict[str, Any] | None = None, *, warm: bool = False) -> Arm:
    runs = [TrainingRun(Path(label), {"algorithm": algorithm}, [])] if algorithm else []
    return Arm(label, label, evaluated=True, is_warm_start=warm, runs=runs)


ARMS = [
    arm("warm start", warm=True),
    arm("Dr.GRPO", {"type": "grpo", "kl_coefficient": 0.0}),
    arm("KL", {"type": "grpo", "kl_coefficient": 0.1}),
    arm("poly", {"type": "polychromic"}),
]


def evaluation(differences: dict[tuple[str, str, int], Interval], seed: int = 0) -> Evaluation:
    """`differences`: (model, baseline, k) -> pass@k difference."""
    entry = {"value": 0.4, "low": 0.3, "high": 0.5}
    curve = {"1": entry, "8": entry}
    models = {found.label: {"pass_at_k": curve, "usq_at_k": curve} for found in ARMS}
    comparisons = [
        {"metric": "pass_at_k", "k": k, "model": model, "baseline": base,
         "difference": d.value, "low": d.low, "high": d.high}
        for (model, base, k), d in differences.items()
    ]  # fmt: skip
    metrics = {
        "models": models, "comparisons": comparisons, "baseline": "Dr.GRPO", "seed": seed,
        "n_problems": 10, "n_samples": 16, "n_clusters": 5, "confidence": 0.95,
    }  # fmt: skip
    return Evaluation(Path("e"), {}, metrics)


def texts(*evaluations: Evaluation) -> dict[str, str]:
    return {statement.lead: statement.text for statement in findings(evaluations, ARMS, "Dr.GRPO")}


@pytest.mark.parametrize(
    ("change", "sentence", "word"),
    [
        (UP, "is higher by 0.300 [0.200, 0.400]", "It raises"),
        (DOWN, "is lower by 0.300 [0.200, 0.400]", "It loses part of"),
        (NONE, "shows no difference (+0.010 [\N{MINUS SIGN}0.020, +0.040])", "It neither raises nor lowers"),
    ],
)
def test_statements_follow_the_interval(change: Interval, sentence: str, word: str) -> None:
    assert describe([change]) == sentence
    found = texts(evaluation({("poly", base, 8): change for base in ("Dr.GRPO", "warm start")}))
    assert found["poly against Dr.GRPO"] == f"pass@8 {sentence}."
    assert found["poly against the warm start"].startswith(f"{word} the warm start's pass@8")
    turned = evaluation({("warm start", "poly", 8): DOWN})
    assert Differences([turned]).between("pass_at_k", 8, "poly", "warm start") == [UP]


def test_statements_name_agreement_of_seeds() -> None:
    assert describe([UP, UP]) == "is higher in all 2 seeds (+0.300, +0.300)"
    assert describe([NONE, NONE]) == "shows no difference in any of 2 seeds (+0.010, +0.010)"
    assert describe([UP, NONE, DOWN]).startswith(
        "differs by seed: higher in 1, lower in 1, no difference shown in 1 of 3"
    )
    assert (agreed_direction([UP, UP]), agreed_direction([UP, NONE])) == ("higher", "no difference shown")


def test_kl_share_is_claimed_only_where_both_gains_are_shown() -> None:
    gain = Interval(0.24, 0.2, 0.3)
    both = {("KL", "Dr.GRPO", 8): gain, ("poly", "Dr.GRPO", 8): UP, ("poly", "KL", 8): NONE}
    text = texts(evaluation(both))["KL"]
    assert text.startswith("A KL penalty alone gives 80 % of the gain in pass@8 over Dr.GRPO that poly gives")
    assert "pass@8 of poly shows no difference" in text
    assert "KL" not in texts(evaluation(both | {("KL", "Dr.GRPO", 8): NONE}))
    assert "KL" not in texts(evaluation(both | {("poly", "Dr.GRPO", 8): NONE}))


def test_no_difference_in_pass_at_1_is_not_called_equality() -> None:
    text = texts(evaluation({("poly", "Dr.GRPO", 1): NONE}))["pass@1 of poly"]
    assert "from \N{MINUS SIGN}0.020 to +0.040" in text and "up to 10 %" in text and "not equality" in text
    assert "pass@1 of poly" not in texts(evaluation({("poly", "Dr.GRPO", 1): DOWN}))


def test_headline_marks_only_changes_whose_interval_excludes_zero() -> None:
    table = build_headline([evaluation({("poly", "Dr.GRPO", 8): UP, ("poly", "Dr.GRPO", 1): NONE})], ARMS)
    assert table.columns == ("pass@1", "pass@8", "USQ@8")
    poly = table.rows[3]
    assert [cell.direction for cell in poly.cells] == ["none", "higher", ""]
    assert (poly.cells[1].value, poly.cells[1].detail) == ("0.400", ("[0.300, 0.500]",))
    assert (poly.cells[1].change, poly.cells[1].change_detail) == ("+0.300", "[+0.200, +0.400]")
    assert [row.is_baseline for row in table.rows] == [False, True, False, False]
    assert all(cell.change == "" for cell in table.rows[1].cells)


def test_headline_over_seeds_shows_each_and_colours_only_agreement() -> None:
    agreed = [evaluation({("poly", "Dr.GRPO", 8): UP}, seed) for seed in (0, 1)]
    mixed = [agreed[0], evaluation({("poly", "Dr.GRPO", 8): NONE}, 1)]
    cell = build_headline(agreed, ARMS).rows[3].cells[1]
    assert cell.detail == ("seed 0: 0.400 [0.300, 0.500]", "seed 1: 0.400 [0.300, 0.500]")
    assert (cell.direction, cell.change_detail) == ("higher", "+0.300* +0.300*")
    cell = build_headline(mixed, ARMS).rows[3].cells[1]
    assert (cell.direction, cell.change, cell.change_detail) == ("none", "+0.155", "+0.300* +0.010")
    assert "means over 2 seeds" in build_headline(mixed, ARMS).note


def test_numbers_have_real_minus_signs_and_bounds_never_hide_a_sign() -> None:
    assert (decimal(-0.016), decimal(-0.0001), signed(0.296), signed(-0.25, 2), signed(0.0001)) == (
        "\N{MINUS SIGN}0.016", "0.000", "+0.296", "\N{MINUS SIGN}0.25", "0.000",
    )  # fmt: skip
    assert bounds(Interval(-0.009, -0.0191, -0.0004)) == "[\N{MINUS SIGN}0.0191, \N{MINUS SIGN}0.0004]"
    assert bounds(Interval(0.001, -0.0001, 0.002), with_sign=True) == "[0.000, +0.002]"
    assert percent(0.813) == "81 %"
    values = (1, 0.5, None, float("nan"), True, "1")
    assert [is_number(value) for value in values] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [(0.1, 0.2, "higher"), (-0.2, -0.1, "lower"), (-0.1, 0.2, ""), (0.0, 0.2, "")],
)
def test_interval_direction_needs_bounds_without_zero(low: float, high: float, direction: str) -> None:
    interval = Interval.of({"difference": (low + high) / 2, "low": low, "high": high})
    assert interval == Interval.of({"value": (low + high) / 2, "low": low, "high": high})
    assert interval.direction == (direction or "no difference shown")
    assert interval.excludes_zero == bool(direction)


def test_caveat_names_known_fields_of_the_threshold() -> None:
    result = evaluation({})
    threshold = {"value": 0.8756, "checker": "heuristic", "quantile": None, "n_validation": 1114}
    result.metrics.update(pass_threshold=0.8756, threshold=threshold)
    assert "A pass is a quality of at least 0.8756 (checker heuristic, n_validation 1114)." in caveats(result)
