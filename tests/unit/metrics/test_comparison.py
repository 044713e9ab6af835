"""The comparison says what its parts say, adjusts over the family it names, and refuses unequal prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polyray.metrics import (
    EffectSizes,
    cliffs_delta,
    cohens_d,
    cohens_d_z,
    compare_metrics,
    compare_models,
    holm,
    mann_whitney,
    paired_bootstrap,
    paired_hierarchical_bootstrap,
    sign_flip_permutation_test,
    tost_non_inferiority,
)

RNG = np.random.default_rng(0)
BASE = RNG.random(60)
CLUSTERS = [f"c{number // 2}" for number in range(60)]
MODELS = {
    "base": BASE,
    "better": BASE + 0.1 + 0.05 * RNG.normal(size=60),
    "same": BASE + 0.02 * RNG.normal(size=60),
}


def test_comparison_equals_its_parts() -> None:
    found = compare_models(MODELS, clusters=CLUSTERS, margin=0.03, resamples=500, permutations=800, seed=4)
    assert [(pair.model, pair.baseline) for pair in found.pairs] == [("better", "base"), ("same", "base")]
    for pair in found.pairs:
        a = MODELS[pair.model]
        interval = paired_bootstrap(a, BASE, CLUSTERS, resamples=500, seed=4)
        assert (pair.difference, pair.low, pair.high) == (interval.difference, interval.low, interval.high)
        assert pair.mean - pair.baseline_mean == pytest.approx(pair.difference)
        assert pair.hierarchical is None
        flips = sign_flip_permutation_test(a - BASE, CLUSTERS, permutations=800, seed=4)
        assert pair.primary == flips
        assert pair.mann_whitney == mann_whitney(a, BASE)
        effects = pair.effect_sizes
        assert effects == EffectSizes(cohens_d(a, BASE), cohens_d_z(a - BASE), cliffs_delta(a, BASE))
        assert pair.non_inferiority == tost_non_inferiority(a - BASE, 0.03, clusters=CLUSTERS)
        assert (pair.num_prompts, pair.num_clusters, pair.num_seeds) == (60, 30, (1, 1))
    better, same = found.pairs
    assert better.low > 0.08 and better.p_adjusted < 0.01
    assert same.low < 0 < same.high and same.non_inferiority is not None and same.non_inferiority.equivalent
    assert [pair.p_adjusted for pair in found.pairs] == pytest.approx(
        holm([pair.primary.p_value for pair in found.pairs])
    )


def test_comparison_of_all_pairs_names_each_pair_once() -> None:
    found = compare_metrics({"m": MODELS}, baseline="same", all_pairs=True, resamples=100, permutations=100)
    expected = [("base", "same"), ("better", "same"), ("better", "base")]
    assert [(pair.model, pair.baseline) for pair in found.pairs] == expected
    assert found.family == "3 tests: 1 metrics x 3 pairs"


def test_comparison_adjusts_over_all_metrics_and_pairs() -> None:
    weaker = {
        name: values + 0.15 * np.random.default_rng(5).normal(size=60) for name, values in MODELS.items()
    }
    noisy = {name: np.random.default_rng(6 + i).random(60) for i, name in enumerate(MODELS)}
    values = {"pass_at_k/8": MODELS, "usq_at_k/8": weaker, "length": noisy}
    found = compare_metrics(values, margins={"usq_at_k/8": 0.1}, resamples=100, permutations=300)
    assert [pair.metric for pair in found.pairs] == [metric for metric in values for _ in range(2)]
    assert found.family == "6 tests: 3 metrics x 2 pairs"
    assert [pair.p_adjusted for pair in found.pairs] == pytest.approx(
        holm([pair.primary.p_value for pair in found.pairs])
    )
    assert [pair.mann_whitney_p_adjusted for pair in found.pairs] == pytest.approx(
        holm([pair.mann_whitney.p_value for pair in found.pairs])
    )
    tested = [pair.metric for pair in found.pairs if pair.non_inferiority is not None]
    assert tested == ["usq_at_k/8"] * 2
    alone = compare_models(MODELS, resamples=100, permutations=300)
    assert [(pair.low, pair.high) for pair in alone.pairs] == [(p.low, p.high) for p in found.pairs[:2]]


def test_smallest_p_leaves_room_for_large_families() -> None:
    [pair] = compare_models({"a": BASE[:40], "b": BASE[:40] + 1}, resamples=10).pairs
    assert pair.primary.p_value * 4_000 < 0.05


def test_comparison_of_several_seeds_has_a_hierarchical_interval() -> None:
    rng = np.random.default_rng(7)
    a, b = BASE + 0.1 + 0.3 * rng.normal(size=(4, 1)), BASE + 0.3 * rng.normal(size=(3, 1))
    [pair] = compare_models({"b": b, "a": a}, clusters=CLUSTERS, resamples=400, permutations=100).pairs
    assert pair.num_seeds == (4, 3)
    assert pair.hierarchical == paired_hierarchical_bootstrap(a, b, CLUSTERS, resamples=400)
    # All prompts differ by the same: the prompts are certain, the trainings are not.
    assert pair.high - pair.low < 1e-9
    assert pair.hierarchical is not None and pair.hierarchical.high - pair.hierarchical.low > 0.1
    single = compare_models(
        {"b": b.mean(axis=0), "a": a.mean(axis=0)}, clusters=CLUSTERS, resamples=400, permutations=100
    ).pairs[0]
    assert (single.difference, single.primary) == (pair.difference, pair.primary)


def test_comparison_of_equal_models_finds_nothing() -> None:
    [pair] = compare_models({"a": BASE, "b": BASE.copy()}, margin=0.01, resamples=50).pairs
    assert (pair.difference, pair.low, pair.high) == (0.0, 0.0, 0.0)
    assert (pair.primary.p_value, pair.mann_whitney.p_value) == (1.0, 1.0)
    assert pair.non_inferiority is not None and pair.non_inferiority.equivalent


def test_comparison_as_json_writes_undefined_numbers_as_null() -> None:
    found = compare_models({"a": [0.0, 0.0, 0.0], "b": [0.5, 0.5, 0.5]}, margin=0.1, resamples=50)
    [pair] = json.loads(json.dumps([pair.as_json() for pair in found.pairs], allow_nan=False))
    assert (pair["metric"], pair["model"], pair["difference"]) == ("value", "b", 0.5)
    primary = pair["primary"]
    assert (primary["name"], primary["p_value"], primary["p_adjusted"]) == (
        "sign_flip_permutation",
        0.25,
        0.25,
    )
    assert (pair["mann_whitney"]["statistic"], pair["mann_whitney"]["p_adjusted"]) == (
        9.0,
        pytest.approx(0.0469, abs=1e-4),
    )
    undefined = dict.fromkeys(("cohens_d", "cohens_d_z"))
    assert pair["effect_sizes"] == {**undefined, "cliffs_delta": 1.0}
    assert pair["non_inferiority"]["non_inferior"] is True and pair["hierarchical"] is None
