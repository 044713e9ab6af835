from __future__ import annotations

from itertools import combinations

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


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory_module, "REFITS", 20)
    monkeypatch.setattr(theory_module, "TEST_RESAMPLES", 19)
    monkeypatch.setattr(theory_module, "BOOTSTRAP_RESAMPLES", 200)


@pytest.fixture(scope="module")
def two() -> dict[str, Outcomes]:
    """`certain` solves 60 % of its prompts always and the others never; `even` solves each at 45 %."""
    sure_P = np.repeat([0.99, 0.01], [180, 120])
    return {"certain": drawn("certain", sure_P, 8, 1), "even": drawn("even", np.full(300, 0.45), 8, 2)}


def test_the_prediction_rests_on_every_other_sample_alone(two: dict[str, Outcomes]) -> None:
    found = theory(two)
    assert (found["n_samples"], found["n_fitted"], found["n_problems"]) == (8, 4, 300)
    for name, model in two.items():
        by_hand = fit_success_distribution(model.passed_PN[:, [0, 2, 4, 6]].sum(axis=1), 4)
        curve = found["models"][name]["curve"]
        assert [point["predicted"] for point in curve] == [by_hand.pass_at_k(k) for k in range(1, 9)]
        assert found["models"][name]["fit_half"]["a"] == by_hand.a
        whole = fit_success_distribution(model.passed_PN.sum(axis=1), 8)
        assert [point["k"] for point in found["models"][name]["beyond"]] == [16, 32, 64, 128]
        assert found["models"][name]["beyond"][3]["predicted"] == whole.pass_at_k(128)


def test_measured_is_the_share_of_subsets_with_a_pass(two: dict[str, Outcomes]) -> None:
    model = two["certain"]
    curve = theory(two)["models"]["certain"]["curve"]
    for k in (1, 3, 8):
        subsets = [model.passed_PN[:, list(chosen)].any(axis=1) for chosen in combinations(range(8), k)]
        assert curve[k - 1]["measured"] == pytest.approx(np.mean(subsets), abs=1e-12)
    others = model.passed_PN[:, [1, 3, 5, 7]]
    subsets = [others[:, list(chosen)].any(axis=1) for chosen in combinations(range(4), 2)]
    assert curve[1]["measured_other_half"] == pytest.approx(np.mean(subsets), abs=1e-12)
    assert [point["measured_other_half"] is None for point in curve] == [False] * 4 + [True] * 4
    errors = [abs(point["predicted"] - point["measured_other_half"]) for point in curve[:4]]
    assert theory(two)["models"]["certain"]["largest_error"] == max(errors)


def test_largest_error_uses_samples_outside_of_the_fit() -> None:
    """Every prompt is solved in each EVEN sample or in none, and never in an ODD one."""
    passed_PN = np.zeros((10, 8), dtype=bool)
    passed_PN[:5, ::2] = True
    model = theory({"one": outcomes("one", passed_PN)})["models"]["one"]
    assert model["curve"][0]["predicted"] == pytest.approx(0.5, abs=0.01)
    assert model["largest_error"] == max(point["predicted"] for point in model["curve"][:4])
    assert model["largest_error"] > 0.5 > max(point["measured"] for point in model["curve"][:1])


def test_overtaking_is_measured_without_a_fit() -> None:
    sure_P, flat_P = np.repeat([0.99, 0.01], [180, 120]), np.full(300, 0.45)
    models = {"certain": drawn("certain", sure_P, 8, 1), "even": drawn("even", flat_P, 8, 2)}
    models["even"].passed_PN[:, 1::2] = False
    [pair] = theory(models)["pairs"]
    assert pair["measured_k"] is not None and pair["measured_k_other_half"] is None


def test_flatter_model_overtakes_at_the_predicted_k(two: dict[str, Outcomes]) -> None:
    [pair] = theory(two)["pairs"]
    assert (pair["behind"], pair["ahead"]) == ("even", "certain")
    fits = [
        fit_success_distribution(two[name].passed_PN[:, ::2].sum(axis=1), 4) for name in ("even", "certain")
    ]
    assert pair["predicted_k"] == overtaking_k(*fits)
    assert pair["predicted_low"] <= pair["predicted_k"] <= pair["predicted_high"]
    assert pair["predicted_share"] == 1.0
    curves = {
        name: [
            np.mean([m.passed_PN[:, list(chosen)].any(axis=1) for chosen in combinations(range(8), k)])
            for k in range(1, 9)
        ]
        for name, m in two.items()
    }
    ahead = [k for k in range(1, 9) if curves["even"][k - 1] > curves["certain"][k - 1]]
    assert pair["measured_k"] == ahead[0] == 2 and ahead == list(range(2, 9))
    assert pair["measured_k_other_half"] == 2
    assert pair["shown_k"] == 2, "no resample of 300 prompts reverses .69 and .61"
    assert abs(pair["predicted_k"] - 1.6) < 0.4
    assert pair["lead_at_n"]["value"] == pytest.approx(curves["even"][7] - curves["certain"][7])


def test_a_model_that_never_overtakes() -> None:
    models = {"good": drawn("good", np.full(60, 0.8), 4, 3), "bad": drawn("bad", np.full(60, 0.2), 4, 4)}
    [pair] = theory(models)["pairs"]
    assert (pair["behind"], pair["measured_k"], pair["shown_k"]) == ("bad", None, None)
    assert pair["predicted_high"] is None or pair["predicted_high"] > 4


def test_the_test_of_fit_sees_three_kinds_of_prompts() -> None:
    three_P = np.repeat([0.02, 0.5, 0.98], 200)
    beta_P = np.random.default_rng(5).beta(0.5, 0.7, size=600)
    models = {"three": drawn("three", three_P, 8, 6), "beta": drawn("beta", beta_P, 8, 7)}
    found = theory(models)["models"]
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


def test_a_lead_must_last_to_count() -> None:
    first = theory_module._first_to_stay
    assert first([-0.1, 0.2, -0.1, 0.1, 0.2]) == 4
    assert first([0.1, 0.2]) == 1
    assert first([-0.1, 0.2, 0.0]) is None


def test_infinite_ends_of_an_interval_are_none() -> None:
    assert theory_module._quantiles([2.0] * 30 + [float("inf")] * 10, 0.95) == (2.0, None)
    assert theory_module._quantiles([], 0.95) == (None, None)
