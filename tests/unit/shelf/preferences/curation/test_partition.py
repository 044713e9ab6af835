"""Parts and phases: nothing crosses, shares hold, engagement agrees, order does not matter."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from polyray.config.curate import PartsSpec
from polyray.config.loader import build_config
from polyray.errors import ConfigError
from polyray.shelf.preferences.curation.partition import assign_parts, divide
from polyray.shelf.preferences.curation.statistics import (
    balance,
    distribution,
    kolmogorov_smirnov,
    num_comparable_pairs,
    stratum_edges,
)
from polyray.shelf.preferences.engagement import EngagementRecord
from tests.unit.shelf.preferences.curation.builders import record

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def clustered(seed: int, number: int) -> dict[str, list[float]]:
    """Clusters of 1 to 12 records whose engagement depends on the cluster."""
    rng = np.random.default_rng(seed)
    return {
        f"c{at}": (rng.normal(2 * rng.normal(), 1, size=int(rng.integers(1, 13)))).tolist()
        for at in range(number)
    }


def records_of(clusters: dict[str, list[float]]) -> list[EngagementRecord]:
    return [
        record(f"{name}-{at}", engagement=value, cluster_id=name)
        for name, values in clusters.items()
        for at, value in enumerate(values)
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(1, 12), st.integers(0, 3))
def test_divide_fills_every_part_and_ignores_order(seed: int, number: int, strata: int, split: int) -> None:
    clusters = clustered(seed, number)
    part_of = divide(clusters, SHARES, strata=strata, seed=split)
    assert set(part_of) == set(clusters) and set(part_of.values()) == set(SHARES)
    turned = dict(reversed([(name, values[::-1]) for name, values in clusters.items()]))
    assert divide(turned, SHARES, strata=strata, seed=split) == part_of


def test_divide_holds_shares_of_records_for_every_seed() -> None:
    clusters = clustered(0, 400)
    total = sum(map(len, clusters.values()))
    splits = [divide(clusters, SHARES, strata=10, seed=seed) for seed in range(3)]
    for part_of in splits:
        for part, share in SHARES.items():
            number = sum(len(values) for name, values in clusters.items() if part_of[name] == part)
            assert number / total == pytest.approx(share, abs=0.003)
    assert sum(splits[0][name] != splits[1][name] for name in clusters) > 0.2 * len(clusters)


def test_divide_by_strata_makes_parts_more_alike_than_chance() -> None:
    def distance(strata: int) -> float:
        found = []
        for seed in range(12):
            clusters = clustered(seed, 150)
            part_of = divide(clusters, SHARES, strata=strata, seed=seed)
            everything = [value for values in clusters.values() for value in values]
            for part in ("validation", "test"):
                own = [v for name, values in clusters.items() if part_of[name] == part for v in values]
                found.append(kolmogorov_smirnov(own, everything))
        return float(np.mean(found))

    assert distance(10) < 0.8 * distance(1)


def test_divide_refuses_too_few_clusters() -> None:
    clusters = {"a": [1.0], "b": [2.0]}
    with pytest.raises(ValueError, match=r"2 clusters .*train, validation, test"):
        divide(clusters, SHARES, strata=1, seed=0)
    part_of = divide(clusters, {**SHARES, "validation": 0.0}, strata=1, seed=0)
    assert set(part_of.values()) == {"train", "test"}


def test_assign_parts_divides_phases_in_the_training_part_only() -> None:
    clusters = clustered(5, 200)
    rows = records_of(clusters)
    place = assign_parts(rows, PartsSpec(sft_share=0.25), seed=3)
    phases: Counter[str | None] = Counter()
    for name, (part, phase) in place.items():
        assert (phase is None) == (part != "train")
        phases[phase] += len(clusters[name])
    assert phases["sft"] / (phases["sft"] + phases["rl"]) == pytest.approx(0.25, abs=0.01)
    everything = assign_parts(rows, PartsSpec(sft_share=1, test_share=0, validation_share=0), seed=3)
    assert set(everything.values()) == {("train", "sft")}
    random.Random(0).shuffle(rows)
    assert assign_parts(rows, PartsSpec(sft_share=0.25), seed=3) == place
    with pytest.raises(ConfigError, match=r"test_share=0\.5 .*validation_share=0\.5"):
        build_config(PartsSpec, {"test_share": 0.5, "validation_share": 0.5})


def test_kolmogorov_smirnov_matches_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 15).tolist(), rng.integers(1, 8, 22).tolist()
        assert kolmogorov_smirnov(a, b) == pytest.approx(ks_2samp(a, b)[0])
    with pytest.raises(ValueError, match="0 and 1 values"):
        kolmogorov_smirnov([], [1.0])


def test_balance_of_discrete_engagement_has_shares_of_strata() -> None:
    values = [0.0] * 6 + [1.0, 2.0, 3.0, 9.0]
    assert stratum_edges(values, 5) == [0.0, 2.0]
    assert stratum_edges([4.0, 4.0], 5) == []
    train = (0, 1, 2, 3, 9)
    rows = [
        record(f"r{at}", engagement=value, part="train" if at in train else "test")
        for at, value in enumerate(values)
    ]
    found = balance(rows, 5)
    assert found["shares"] == {"all": [0.6, 0.2, 0.2], "train": [0.8, 0.0, 0.2], "test": [0.4, 0.4, 0.2]}
    assert found["groups"]["test"]["max_share_difference"] == pytest.approx(0.2)
    assert set(found["groups"]) == {"train", "test"}


def test_distribution_has_quantiles_and_deviation() -> None:
    found = distribution([4, 1, 2, 3, 5])
    assert [found[name] for name in ("count", "mean", "q0", "q25", "q50", "q100")] == [5, 3, 1, 2, 3, 5]
    assert found["std"] == pytest.approx(2**0.5)
    assert distribution([])["mean"] is None


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab")), max_size=10))
def test_num_comparable_pairs_matches_brute_force(items: list[tuple[int, str]]) -> None:
    rows = [record(str(at), engagement=value, prompt_id=name) for at, (value, name) in enumerate(items)]
    pairs = combinations(rows, 2)
    expected = sum(a.prompt_id == b.prompt_id and a.engagement != b.engagement for a, b in pairs)
    assert num_comparable_pairs(rows) == expected
