"""Metrics of a scorer against scipy and enumeration; pairs of the real threads against a count made elsewhere."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from polyray.config.reward_validation import RandomScorerSpec, RewardValidationConfig, ValidationDataSpec
from polyray.shelf.preferences.engagement import EngagementRecord
from polyray.shelf.preferences.reward_evaluation.held_out import Texts, read_held_out
from polyray.shelf.preferences.reward_evaluation.measures import Settings, compare, measure
from polyray.shelf.preferences.reward_evaluation.slices import pair_slices
from tests.unit.shelf.preferences.reward_evaluation.planted import write_records

CONFIG = RewardValidationConfig(
    name="x", data=ValidationDataSpec(path="x"), models={"model": RandomScorerSpec()}, bootstrap_resamples=200
)


def held_out(folder: Path, num_clusters: int, seed: int = 0) -> Texts:
    """Five completions per prompt, one prompt per cluster, all test."""
    generator = np.random.default_rng(seed)
    rows = [
        EngagementRecord(
            record_id=f"{cluster}-{place}",
            prompt=f"prompt {cluster}",
            completion="word " * int(generator.integers(1, 12)) + f"{cluster} {place}",
            engagement=float(generator.integers(0, 9)),
            prompt_id=f"p{cluster}",
            cluster_id=f"c{cluster}",
            impressions=int(generator.integers(100, 200)),
            age_s=float(generator.integers(0, 1000)),
            part="test",
        )
        for cluster in range(num_clusters)
        for place in range(5)
    ]
    path = write_records(folder / "r.jsonl", rows)
    return read_held_out(ValidationDataSpec(path=str(path)), 0).validated


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return held_out(tmp_path_factory.mktemp("measures"), 40)


def noisy(texts: Texts, noise: float, seed: int = 1) -> np.ndarray:
    return texts.engagement_N + np.random.default_rng(seed).normal(0, noise, len(texts))


def test_measure_matches_enumeration_and_scipy(texts: Texts) -> None:
    scores = noisy(texts, 3.0)
    measured = measure(scores, texts, 1.0, CONFIG)
    by_prompt, rhos, taus, centred = [], [], [], []
    for prompt in dict.fromkeys(texts.prompt_ids_N):
        own = texts.prompt_ids_N == prompt
        s, e = scores[own], texts.engagement_N[own]
        pairs = combinations(range(5), 2)
        by_prompt.append([float((s[a] - s[b]) * (e[a] - e[b]) > 0) for a, b in pairs if e[a] != e[b]])
        if len(set(e)) >= 3:
            rhos.append(cast(Any, stats.spearmanr(s, e)).statistic)
            taus.append(cast(Any, stats.kendalltau(s, e)).statistic)
        centred.append(np.stack([s - s.mean(), e - e.mean()]))
    lengths = np.array([len(text) for text in texts.completions])
    better, worse = texts.pairs.better_M, texts.pairs.worse_M
    is_matched = abs(lengths[better] - lengths[worse]) <= 0.1 * np.maximum(lengths[better], lengths[worse])
    expected = {
        "pairwise_accuracy": np.mean(np.concatenate(by_prompt)),
        "pairwise_accuracy_by_prompt": np.mean([np.mean(hits) for hits in by_prompt]),
        "pairwise_accuracy_length_matched": (scores[better] > scores[worse])[is_matched].mean(),
        "spearman_within": np.mean(rhos),
        "kendall_within": np.mean(taus),
        "spearman": cast(Any, stats.spearmanr(scores, texts.engagement_N)).statistic,
        "pearson_without_prompt_means": np.corrcoef(np.hstack(centred))[0, 1],
    }
    assert {name: measured.metrics[name].value for name in expected} == pytest.approx(expected)
    uncalibrated = measure(scores, texts, None, CONFIG)
    assert uncalibrated.calibration is None and "brier" not in uncalibrated.metrics


def test_compare_flips_whole_clusters_and_adjusts_by_holm(tmp_path: Path) -> None:
    texts = held_out(tmp_path, 8, seed=4)
    measured = {
        name: measure(noisy(texts, noise, seed), texts, None, CONFIG)
        for name, noise, seed in (("a", 3.0, 1), ("b", 6.0, 2), ("c", 9.0, 3))
    }
    entries = compare(measured, ["a"], ["b", "c"], texts, Settings.of(CONFIG))
    raw = []
    for entry, baseline in zip(entries, "bc", strict=True):
        differences = measured["a"].hits_M - measured[baseline].hits_M
        sums = [differences[texts.clusters_M == cluster].sum() for cluster in sorted(set(texts.clusters_M))]
        flipped = np.abs([np.dot(signs, sums) for signs in product((1, -1), repeat=len(sums))])
        raw.append(np.mean(flipped >= abs(sum(sums)) - 1e-9))
        assert entry["primary"]["p_value"] == pytest.approx(raw[-1])
        assert (entry["n_pairs"], entry["n_clusters"]) == (len(texts.pairs), 8)
    smaller, larger = sorted(raw)
    adjusted = sorted(entry["primary"]["p_adjusted"] for entry in entries)
    assert adjusted == pytest.approx([min(1, 2 * smaller), min(1, max(2 * smaller, larger))])


def test_slices_by_number_are_equal_thirds_with_their_ends(texts: Texts) -> None:
    slices = pair_slices(texts)
    found = [part for part in slices if part.property == "impressions, the fewer of the two"]
    impressions = np.array([record.impressions for record in texts.records], dtype=float)
    fewer = np.minimum(impressions[texts.pairs.better_M], impressions[texts.pairs.worse_M])
    assert [part.value.split()[0] for part in found] == ["low", "middle", "high"]
    assert (np.stack([part.members_M for part in found]).sum(axis=0) == 1).all()
    for part in found:
        own = fewer[part.members_M]
        assert part.value.endswith(f"({own.min():g} to {own.max():g})")
        assert 0.2 < part.members_M.mean() < 0.45
    properties = {part.property for part in slices}
    assert "age of the two" in properties
    assert not properties & {"kind", "year", "position among replies", "which came first"}  # unknown here
