from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from polyray.metrics import fit_success_distribution, overtaking_k
from polyray.shelf.research.evaluated import theory as theory_module
from polyray.shelf.research.evaluated.outcomes import Outcomes
from polyray.shelf.research.evaluated.theory import theory


def outcomes(name: str, passed_PN: np.ndarray) -> Outcomes:
    num_prompts, num_samples = passed_PN.shape
    ids = tuple(f"p{number}" for number in range(num_prompts))
    zeros = np.zeros((num_prompts, num_samples), dtype=np.int64)
    return Outcomes(name, ids, ids, passed_PN, zeros, zeros, np.zeros(num_prompts))


def drawn(name: str, chances_P: np.ndarray, num_samples: int, seed: int) -> Outcomes:
    uniform = np.random.default_rng(seed).random((len(chances_P), num_samples))
    return outcomes(name, uniform < chances_P[:, None])


def make_fast(patch: pytest.MonkeyPatch) -> None:
    for name, number in (("REFITS", 20), ("TEST_RESAMPLES", 19), ("BOOTSTRAP_RESAMPLES", 200)):
        patch.setattr(theory_module, name, number)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    make_fast(monkeypatch)


@pytest.fixture(scope="module")
def two() -> dict[str, Outcomes]:
    """`certain` solves 60 % of its prompts always and the others never; `even` solves each at 45 %."""
    sure_P = np.repeat([0.99, 0.01], [180, 120])
    return {"certain": drawn("certain", sure_P, 8, 1), "even": drawn("even", np.full(300, 0.45), 8, 2)}


def share_of_subsets(passed_PN: np.ndarray, k: int) -> float:
    """pass@k by enumeration."""
    subsets = combinations(range(passed_PN.shape[1]), k)
    return float(np.mean([passed_PN[:, list(chosen)].any(axis=1) for chosen in subsets]))


@pytest.fixture(scope="module")
def found(two: dict[str, Outcomes]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        return theory(two)


def test_theory_predicts_from_every_other_sample_alone(
    two: dict[str, Outcomes], found: dict[str, Any]
) -> None:
    assert (found["n_samples"], found["n_fitted"], found["n_problems"]) == (8, 4, 300)
    for name, model in two.items():
        by_hand = fit_success_distribution(model.passed_PN[:, ::2].sum(axis=1), 4)
        entry = found["models"][name]
        assert [point["predicted"] for point in entry["curve"]] == [by_hand.pass_at_k(k) for k in range(1, 9)]
        assert entry["fit_half"]["a"] == by_hand.a
        whole = fit_success_distribution(model.passed_PN.sum(axis=1), 8)
        assert [point["k"] for point in entry["beyond"]] == [16, 32, 64, 128]
        assert entry["beyond"][3]["predicted"] == whole.pass_at_k(128)


def test_theory_measures_the_share_of_subsets_with_a_pass(
    two: dict[str, Outcomes], found: dict[str, Any]
) -> None:
    passed_PN, entry = two["certain"].passed_PN, found["models"]["certain"]
    for point in entry["curve"]:
        k, other = point["k"], point["measured_other_half"]
        assert point["measured"] == pytest.approx(share_of_subsets(passed_PN, k), abs=1e-12)
        assert (other is None) == (k > 4)
        if k <= 4:
            assert other == pytest.approx(share_of_subsets(passed_PN[:, 1::2], k), abs=1e-12)
    errors = [abs(point["predicted"] - point["measured_other_half"]) for point in entry["curve"][:4]]
    assert entry["largest_error"] == max(errors)


def test_theory_uses_samples_outside_of_the_fit_for_errors_and_leads(two: dict[str, Outcomes]) -> None:
    passed_PN = np.zeros((10, 8), dtype=bool)
    passed_PN[:5, ::2] = True  # solved in each EVEN sample or in none, and never in an ODD one
    model = theory({"one": outcomes("one", passed_PN)})["models"]["one"]
    assert model["curve"][0]["predicted"] == pytest.approx(0.5, abs=0.01)
    assert model["largest_error"] == max(point["predicted"] for point in model["curve"][:4]) > 0.5
    flat_PN = two["even"].passed_PN.copy()
    flat_PN[:, 1::2] = False
    [pair] = theory({**two, "even": outcomes("even", flat_PN)})["pairs"]
    assert pair["measured_k"] is not None and pair["measured_k_other_half"] is None


def test_flatter_model_overtakes_at_the_predicted_k(two: dict[str, Outcomes], found: dict[str, Any]) -> None:
    [pair] = found["pairs"]
    assert (pair["behind"], pair["ahead"]) == ("even", "certain")
    fits = [
        fit_success_distribution(two[name].passed_PN[:, ::2].sum(axis=1), 4) for name in ("even", "certain")
    ]
    assert pair["predicted_k"] == overtaking_k(*fits)
    assert pair["predicted_low"] <= pair["predicted_k"] <= pair["predicted_high"]
    assert pair["predicted_share"] == 1.0
    leads = [share_of_subsets(two["even"].passed_PN, k) - share_of_subsets(two["certain"].passed_PN, k)
             for k in range(1, 9)]  # fmt: skip
    assert [lead > 0 for lead in leads] == [False] + [True] * 7
    assert pair["measured_k"] == pair["measured_k_other_half"] == 2
    assert pair["shown_k"] == 2, "no resample of 300 prompts reverses .69 and .61"
    assert abs(pair["predicted_k"] - 1.6) < 0.4
    assert pair["lead_at_n"]["value"] == pytest.approx(leads[7])


def test_model_that_never_overtakes_has_no_measured_k() -> None:
    models = {"good": drawn("good", np.full(60, 0.8), 4, 3), "bad": drawn("bad", np.full(60, 0.2), 4, 4)}
    [pair] = theory(models)["pairs"]
    assert (pair["behind"], pair["measured_k"], pair["shown_k"]) == ("bad", None, None)
    assert pair["predicted_high"] is None or pair["predicted_high"] > 4


def test_goodness_of_fit_sees_three_kinds_of_prompts() -> None:
    beta_P = np.random.default_rng(5).beta(0.5, 0.7, size=600)
    three = drawn("three", np.repeat([0.02, 0.5, 0.98], 200), 8, 6)
    found = theory({"three": three, "beta": drawn("beta", beta_P, 8, 7)})["models"]
    assert found["three"]["goodness_of_fit"]["p"] == 0.05, "the least that 19 resamples allow"
    assert found["beta"]["goodness_of_fit"]["p"] > 0.05


def test_model_that_cannot_be_fitted_has_a_reason() -> None:
    never, mixed = np.zeros((3, 4), dtype=bool), np.array([[True, False, True, True]] * 3)
    found = theory({"never": outcomes("never", never), "mixed": outcomes("mixed", mixed)})
    entry = found["models"]["never"]
    assert entry["fit"] is entry["fit_half"] is entry["goodness_of_fit"] is entry["largest_error"] is None
    assert "3 prompts" in entry["why_no_fit"]
    assert entry["beyond"] == [] and entry["curve"][3]["measured"] == 0.0
    [pair] = found["pairs"]
    assert pair["predicted_k"] is pair["predicted_share"] is pair["measured_k"] is None
    single = theory({"one": outcomes("one", np.array([[True, False], [False, True]]))})
    assert "evaluation.num_samples" in single["models"]["one"]["why_no_fit"]


def test_lead_counts_only_when_it_lasts() -> None:
    first = theory_module._first_to_stay
    assert [first(leads) for leads in ([-0.1, 0.2, -0.1, 0.1, 0.2], [0.1, 0.2], [-0.1, 0.2, 0])] == [
        4,
        1,
        None,
    ]
    assert theory_module._quantiles([2.0] * 30 + [float("inf")] * 10, 0.95) == (2.0, None)
