"""results.json of small sweeps, against numbers found by hand."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.errors import DataError
from polyray.report.sweep.report import write_sweep_report
from polyray.report.sweep.results import finite, sweep_results
from polyray.report.sweep.trials import Trial
from tests.unit.report.sweep_fixtures import AXIS, trial, write_evaluation, write_run

# Of 4 samples, c correct ones give pass@2 = 0, 1/2, 5/6, 1, 1 for c = 0..4; c different classes among 4 samples
# give distinct-correct@2 = c / 2, one class gives pass@2.
PLAIN_0, PLAIN_1 = (4, 4, 0, 0), (4, 4, 0, 0)
DIVERSE_0, DIVERSE_1 = (2, 2, 2, 2), (1, 1, 1, 1)
COUNTS = {"p0": PLAIN_0, "p1": PLAIN_1, "d0": DIVERSE_0, "d1": DIVERSE_1}
TRIALS = [
    trial("p0", 0.0, 0, core_hours=0.5, tokens=100),
    trial("p1", 0.0, 1, core_hours=1.5, tokens=300),
    trial("d0", 1.0, 0, metric=0.2),
    trial("d1", 1.0, 1, metric=0.3, gpu_hours=2.0),
]
SETTINGS: dict[str, Any] = {
    "axis": AXIS, "objective": "the pairwise set objective", "baseline": 0.0, "quality": "pass_at_1",
    "diversity": "distinct_correct_at_2", "ks": (1, 2), "margin": 0.1, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    root = tmp_path_factory.mktemp("sweep")
    evaluation = write_evaluation(
        root / "evaluation", COUNTS | {"warm start": (1, 0, 0, 0)}, one_class=("p0", "p1")
    )
    runs = {
        "d0": write_run(root / "trials/d0", [(0.8, 0.2), (0.0, 0.0), (0.6, 0.4)]),
        "p0": write_run(root / "trials/p0", [(1.0, 0.0), (1.0, 0.0)]),
    }
    return evaluation, runs


@pytest.fixture(scope="module")
def results(sweep) -> dict[str, Any]:
    return sweep_results(TRIALS, *sweep, **SETTINGS)


def by_setting(results) -> dict[str, Any]:
    return {entry["setting"]: entry for entry in results["settings"]}


def test_means_are_over_seeds_and_prompts(results) -> None:
    plain, diverse = by_setting(results)["λ = 0"], by_setting(results)["λ = 1"]
    assert [plain[name]["value"] for name in ("quality", "diversity", "criterion")] == [0.5, 0.5, 0.5]
    assert diverse["quality"]["value"] == pytest.approx((0.5 + 0.25) / 2)
    assert diverse["diversity"]["value"] == pytest.approx((1.0 + 0.5) / 2)
    assert diverse["criterion"]["value"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert results["criterion"] == "pass_at_2", "pass@k at the largest k by default"
    assert {k: entry["value"] for k, entry in diverse["curves"]["pass_at_k"].items()} == pytest.approx(
        {"1": 0.375, "2": 2 / 3}
    )
    # The selector picks the last sample of a pair: it is right only where both are.
    pairs = {2: 1 / 6, 1: 0.0}
    assert diverse["curves"]["usq_at_k"]["2"]["value"] == pytest.approx((pairs[2] + pairs[1]) / 2)
    assert plain["curves"]["usq_at_k"]["2"]["value"] == 0.5
    per_seed = [(row["trial_id"], row["seed"], row["quality"]) for row in diverse["per_seed"]]
    assert per_seed == [("d0", 0, 0.5), ("d1", 1, 0.25)]


def test_results_have_the_front_shares_and_evaluation(results, sweep) -> None:
    pareto = results["pareto"]
    assert (pareto["front"], pareto["reference"]) == (["λ = 0", "λ = 1"], [0.0, 0.0])
    assert pareto["hypervolume"] == pytest.approx(0.5 * 0.5 + 0.375 * (0.75 - 0.5))
    assert pareto["baseline_hypervolume"] == 0.25
    shares = {label: entry["advantage_share_diversity"] for label, entry in by_setting(results).items()}
    # The step without any advantage does not count; d1 and p1 have no metrics.
    assert shares["λ = 1"] == {"mean": pytest.approx(0.3), "per_seed": [pytest.approx(0.3), None]}
    assert shares["λ = 0"] == {"mean": 0.0, "per_seed": [0.0, None]}
    evaluation = results["evaluation"]
    assert (evaluation["n_problems"], evaluation["n_clusters"], evaluation["selector"]) == (4, 4, "logprob")
    assert evaluation["ignored_arms"] == ["warm start"]
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert finite({"a": (math.nan, np.float64(2), [np.inf, np.int64(3)])}) == {"a": [None, 2.0, [None, 3]]}
    assert sweep_results(TRIALS, *sweep, **SETTINGS) == results
    assert sweep_results(TRIALS, *sweep, **(SETTINGS | {"seed": 1})) != results


def test_intervals_resample_seeds_then_prompts(results) -> None:
    # λ = 1: prompts agree within a seed, so the mean of two drawn seeds is 1/2, 2/3 or 5/6 (1/4, 1/2, 1/4).
    diverse = by_setting(results)["λ = 1"]["criterion"]
    assert (diverse["low"], diverse["high"]) == pytest.approx((0.5, 5 / 6))
    # λ = 0: seeds agree; of four drawn prompts none is solved with probability 1/16 > 2.5 %.
    plain = by_setting(results)["λ = 0"]["criterion"]
    assert (plain["low"], plain["high"]) == (0.0, 1.0)


def exact_sign_flips(differences) -> float:
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=4)
    ]
    return float(np.mean([abs(total) >= abs(sum(differences)) - 1e-9 for total in sums]))


def test_comparisons_with_the_baseline_are_one_family(results) -> None:
    comparisons = results["comparisons"]
    assert comparisons["family"] == "4 tests: 4 metrics x 1 settings against the baseline"
    pairs = {pair["metric"]: pair for pair in comparisons["pairs"]}
    assert list(pairs) == ["pass_at_1", "distinct_correct_at_2", "pass_at_2", "usq_at_2"]
    passes = pairs["pass_at_2"]
    differences = [2 / 3 - 1, 2 / 3 - 1, 2 / 3, 2 / 3]
    assert (passes["setting"], passes["baseline"], passes["num_seeds"]) == ("λ = 1", "λ = 0", [2, 2])
    assert passes["difference"] == pytest.approx(1 / 6)
    assert passes["p"] == pytest.approx(exact_sign_flips(differences))
    assert passes["effect_sizes"]["cohens_d_z"] == pytest.approx(
        np.mean(differences) / np.std(differences, ddof=1)
    )
    assert passes["effect_sizes"]["cliffs_delta"] == 0.0, "above two prompts, below two"
    # λ = 1 is 1/2, 2/3 or 5/6 by its seeds, λ = 0 the share of solved prompts among four drawn ones.
    assert (passes["low"], passes["high"]) == pytest.approx((2 / 3 - 1, 2 / 3))
    ordered = sorted(pair["p"] for pair in pairs.values())
    smallest = min(pairs.values(), key=lambda pair: pair["p"])
    assert smallest["p_adjusted"] == pytest.approx(min(1.0, 4 * ordered[0]))
    assert all(pair["verdict"] == "no difference shown" for pair in pairs.values())


def test_difference_is_shown_only_if_prompts_and_seeds_support_it(tmp_path: Path) -> None:
    counts = {"p0": [1] * 30, "p1": [1] * 30, "u0": [3] * 30, "u1": [2] * 30, "v0": [4] * 30, "v1": [0] * 30}
    evaluation = write_evaluation(tmp_path / "evaluation", counts)
    trials = [trial(name, {"p": 0.0, "u": 1.0, "v": 2.0}[name[0]], int(name[1])) for name in counts]
    results = sweep_results(trials, evaluation, {}, **SETTINGS)
    pairs = {(pair["value"], pair["metric"]): pair for pair in results["comparisons"]["pairs"]}
    agreed, torn = pairs[1.0, "pass_at_1"], pairs[2.0, "pass_at_1"]
    assert agreed["difference"] == pytest.approx(0.375) and agreed["verdict"] == "higher"
    assert (agreed["low"], agreed["high"]) == pytest.approx((0.25, 0.5))
    # One seed solves everything, the other nothing: every prompt gains, but other seeds may lose.
    assert torn["difference"] == pytest.approx(0.25) and torn["p_adjusted"] < 0.01
    assert torn["over_prompts"] == {"low": pytest.approx(0.25), "high": pytest.approx(0.25)}
    assert (torn["low"], torn["high"]) == pytest.approx((-0.25, 0.75))
    assert torn["verdict"] == "no difference shown"
    # pass@2 of λ = 1 is (1 + 5/6) / 2 against 1/2.
    price = next(cost for cost in results["costs"] if cost["value"] == 1.0)
    assert price["per_point"]["tokens"] == pytest.approx(1000 / (100 * (11 / 12 - 1 / 2)))


def test_recommendation_is_the_smallest_value_near_the_best(results, sweep) -> None:
    found = results["recommendation"]
    assert (found["setting"], found["value"], found["best"]["value"]) == ("λ = 1", 1.0, 1.0)
    assert found["range"] == {"low": 1.0, "high": 1.0, "settings": ["λ = 1"]}
    # λ = 0 - λ = 1: at worst no solved prompt against 5/6 (1/64 of resamples), then against 2/3 (1/32).
    difference = found["differences_to_best"][0]
    assert difference["difference"] == pytest.approx(-1 / 6)
    assert difference["low"] == pytest.approx(-2 / 3)
    assert "does not go below -0.1" in found["rule"] and "pass@2" in found["rule"]
    assert found["against_baseline"]["setting"] == "λ = 1"
    assert found["adapter"] == "d1", "the better validation metric, not the better evaluation"
    others = {entry["criterion"]: entry["value"] for entry in found["by_other_criteria"]}
    assert others == {"pass_at_1": 0.0, "distinct_correct_at_2": 1.0, "usq_at_2": 0.0}
    wide = sweep_results(TRIALS, *sweep, **(SETTINGS | {"margin": 0.7}))["recommendation"]
    assert (wide["value"], wide["best"]["value"]) == (0.0, 1.0)
    assert wide["range"] == {"low": 0.0, "high": 1.0, "settings": ["λ = 0", "λ = 1"]}
    assert wide["against_baseline"] is None
    assert wide["adapter"] == "p0" and "no seed of it has a validation metric" in wide["adapter_rule"]
    small = sweep_results(TRIALS, *sweep, **(SETTINGS | {"mode": "min"}))["recommendation"]
    assert small["adapter"] == "d0", "where the metric is to be small"


def test_arms_keep_their_order_and_the_best_is_recommended(sweep) -> None:
    names = {"p": "zeta", "d": "alpha"}
    trials = [replace(each, parameters={"arm": names[each.trial_id[0]]}) for each in TRIALS]
    results = sweep_results(trials, *sweep, **(SETTINGS | {"axis": "arm", "baseline": 1, "margin": 1.0}))
    assert [(entry["setting"], entry["value"]) for entry in results["settings"]] == [
        ("zeta", 0),
        ("alpha", 1),
    ]
    assert {pair["setting"] for pair in results["comparisons"]["pairs"]} == {"zeta"}
    best = results["recommendation"]
    means = {entry["setting"]: entry["criterion"]["value"] for entry in results["settings"]}
    assert best["setting"] == max(means, key=means.__getitem__) == best["best"]["setting"]
    assert best["rule"].endswith("Recommended is the best.") and len(best["also_near"]) == 1
    write_sweep_report(results, sweep[0].parent / "arms.html")
    page = (sweep[0].parent / "arms.html").read_text()
    assert "arms of the pairwise set objective" in page and "2 arms with 4 trials" in page
    assert "Near it: " in page and "Near the best: " not in page


def test_results_sum_costs_per_setting(results) -> None:
    plain, diverse = results["costs"]
    assert plain["per_trial"] == {"core_hours": 1.0, "gpu_hours": 0.0, "tokens": 200.0, "seconds": 100.0}
    assert (plain["gain"], plain["per_point"]) == (None, None)
    assert diverse["per_trial"]["gpu_hours"] == 1.0
    assert diverse["gain"] == pytest.approx(1 / 6)
    assert diverse["per_point"] is None, "a gain that is not shown has no price"
    assert results["total_cost"] == {"core_hours": 2.5, "gpu_hours": 2.0, "tokens": 2400.0, "seconds": 400.0}


def test_results_show_trials_that_do_not_count(sweep) -> None:
    lost = [
        trial("x", 1.0, 2, status="failed", error="OOM", steps=5),
        trial("y", 2.0, 0, status="stopped", steps=9),
    ]
    results = sweep_results([*TRIALS, *lost], *sweep, **SETTINGS)
    assert results["left_out"] == {
        "x": "failed after 5 steps: OOM; it was not evaluated",
        "y": "stopped by the scheduler after 9 steps; it was not evaluated",
    }
    rows = {row["trial_id"]: row for row in results["trials"]}
    assert (rows["x"]["counts"], rows["x"]["quality"], rows["x"]["error"]) == (False, None, "OOM")
    diverse = by_setting(results)["λ = 1"]
    assert (diverse["is_complete"], diverse["trials"]) == (False, ["d0", "d1", "x"])
    assert diverse["counted"] == ["d0", "d1"]
    found = results["recommendation"]
    assert found["value"] == 0.0, "λ = 1 lost a seed"
    assert found["not_eligible"] == ["λ = 1"] and "cannot be recommended" in found["rule"]
    assert results["comparisons"]["pairs"][0]["setting"] == "λ = 1", "its seeds are compared all the same"


@pytest.mark.parametrize(("baseline", "note"), [(None, "baseline"), (0.25, r"0\.25 .*: λ = 0; λ = 1")])
def test_comparisons_without_a_baseline_are_empty(sweep, baseline, note) -> None:
    results = sweep_results(TRIALS, *sweep, **(SETTINGS | {"baseline": baseline}))
    assert results["comparisons"]["pairs"] == [] and results["comparisons"]["family"] is None
    assert len(results["comparisons"]["notes"]) == 1
    assert re.search(note, results["comparisons"]["notes"][0])
    assert results["pareto"]["baseline_hypervolume"] is None
    assert all(cost["per_point"] is None for cost in results["costs"])


def with_rate(entry: Trial, rate: float) -> Trial:
    return trial(entry.trial_id, entry.parameters[AXIS], entry.seed, others={"learner.lr": rate})


def test_comparisons_use_the_baseline_of_equal_other_parameters(sweep) -> None:
    # lr 0.1 has λ = 0 and 1 (seed 0 of each), lr 0.2 has λ = 1 alone.
    trials = [with_rate(TRIALS[0], 0.1), with_rate(TRIALS[2], 0.1), with_rate(TRIALS[3], 0.2)]
    results = sweep_results(trials, *sweep, **SETTINGS)
    assert {(pair["setting"], pair["baseline"]) for pair in results["comparisons"]["pairs"]} == {
        ("λ = 1, lr = 0.1", "λ = 0, lr = 0.1")
    }
    assert results["comparisons"]["notes"][0].endswith("not tested: λ = 1, lr = 0.2.")
    found = results["recommendation"]
    assert (found["setting"], found["others"]) == ("λ = 1, lr = 0.1", {"learner.lr": 0.1})
    assert [row["setting"] for row in found["differences_to_best"]] == ["λ = 0, lr = 0.1", "λ = 1, lr = 0.1"]
    assert "share the best one's other parameters" in found["rule"]


def test_results_read_an_axis_that_was_not_swept_from_a_run(sweep, tmp_path: Path) -> None:
    evaluation, _ = sweep
    run = write_run(tmp_path / "d0", [], {"algorithm": {"diversity_weight": 0.75}})
    trials = [
        Trial(t.trial_id, {}, *(getattr(t, name) for name in list(t.__slots__)[2:])) for t in TRIALS[2:]
    ]
    results = sweep_results(trials, evaluation, {"d0": run}, **SETTINGS)
    assert [(s["setting"], s["counted"]) for s in results["settings"]] == [("λ = 0.75", ["d0", "d1"])]
    with pytest.raises(DataError, match=r"diversity_weight=None .*d0"):
        sweep_results(trials, evaluation, {}, **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diversity": "colour"}, r"diversity='colour' .* pass_at_1"),
        ({"quality": "pass_at_9"}, r"k=9"),
        ({"ks": ()}, r"ks=\[\]"),
        ({"margin": -0.1}, r"margin=-0.1"),
    ],
)
def test_results_refuse_bad_settings(sweep, changes, message) -> None:
    with pytest.raises(DataError, match=message):
        sweep_results(TRIALS, *sweep, **(SETTINGS | changes))


def test_results_refuse_a_sweep_without_an_evaluation(sweep, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 trials .*: z "):
        sweep_results([trial("z", 1.0)], *sweep, **SETTINGS)
    with pytest.raises(DataError, match=r"metrics\.json"):
        sweep_results(TRIALS, tmp_path, {}, **SETTINGS)


def test_results_need_neither_torch_nor_ray_nor_plotly() -> None:
    code = "import sys, polyray.report.sweep.results; print({'torch', 'ray', 'plotly'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
