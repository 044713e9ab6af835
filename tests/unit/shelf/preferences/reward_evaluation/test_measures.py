"""Metrics of a scorer against scipy and enumeration; pairs of the real threads against a count made elsewhere."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from polyray.config.curate import StackExchangeSource
from polyray.config.reward_validation import RandomScorerSpec, RewardValidationConfig, ValidationDataSpec
from polyray.metrics.pairwise import within_group_pairs
from polyray.shelf.preferences.engagement import EngagementRecord, import_records
from polyray.shelf.preferences.reward_evaluation.held_out import Texts, read_held_out
from polyray.shelf.preferences.reward_evaluation.measures import Settings, compare, measure
from polyray.shelf.preferences.reward_evaluation.slices import pair_slices
from tests.data_sets import shared_data
from tests.unit.shelf.preferences.reward_evaluation.planted import write_records

CONFIG = RewardValidationConfig(
    name="x",
    data=ValidationDataSpec(path="x"),
    models={"model": RandomScorerSpec()},
    bootstrap_resamples=200,
)


def rows(num_clusters: int, seed: int = 0) -> list[EngagementRecord]:
    """Five completions per prompt, one prompt per cluster, all test."""
    generator = np.random.default_rng(seed)
    return [
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


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    path = write_records(tmp_path / "r.jsonl", rows(40))
    return read_held_out(ValidationDataSpec(path=str(path)), 0).validated


def noisy(texts: Texts, noise: float, seed: int = 1) -> np.ndarray:
    return texts.engagement_N + np.random.default_rng(seed).normal(0, noise, len(texts))


def test_accuracy_and_correlations_match_enumeration_and_scipy(texts: Texts) -> None:
    scores = noisy(texts, 3.0)
    found = {name: interval.value for name, interval in measure(scores, texts, 1.0, CONFIG).metrics.items()}
    by_prompt, rhos, taus, centred = [], [], [], []
    for prompt in dict.fromkeys(texts.prompt_ids_N):
        own = texts.prompt_ids_N == prompt
        s, e = scores[own], texts.engagement_N[own]
        hits = [
            float((s[a] - s[b]) * (e[a] - e[b]) > 0) for a, b in combinations(range(5), 2) if e[a] != e[b]
        ]
        by_prompt.append(hits)
        spearman: Any = stats.spearmanr(s, e)
        kendall: Any = stats.kendalltau(s, e)
        if len(set(e)) >= 3:
            rhos.append(spearman.statistic)
            taus.append(kendall.statistic)
        centred.append(np.stack([s - s.mean(), e - e.mean()]))
    every = [hit for hits in by_prompt for hit in hits]
    assert found["pairwise_accuracy"] == pytest.approx(np.mean(every))
    assert found["pairwise_accuracy_by_prompt"] == pytest.approx(
        np.mean([np.mean(hits) for hits in by_prompt])
    )
    assert found["spearman_within"] == pytest.approx(np.mean(rhos))
    assert found["kendall_within"] == pytest.approx(np.mean(taus))
    overall: Any = stats.spearmanr(scores, texts.engagement_N)
    assert found["spearman"] == pytest.approx(overall.statistic)
    assert found["pearson_without_prompt_means"] == pytest.approx(np.corrcoef(np.hstack(centred))[0, 1])


def test_accuracy_where_lengths_are_equal(texts: Texts) -> None:
    scores = noisy(texts, 2.0)
    lengths = [len(text) for text in texts.completions]
    hits = [
        float(scores[a] > scores[b])
        for a, b in zip(texts.pairs.better_M, texts.pairs.worse_M, strict=True)
        if abs(lengths[a] - lengths[b]) <= 0.1 * max(lengths[a], lengths[b])
    ]
    found = measure(scores, texts, None, CONFIG)
    assert found.metrics["pairwise_accuracy_length_matched"].value == pytest.approx(np.mean(hits))
    assert found.calibration is None and "brier" not in found.metrics


def test_the_test_flips_whole_clusters(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", rows(8, seed=4))
    texts = read_held_out(ValidationDataSpec(path=str(path)), 0).validated
    measured = {
        name: measure(noisy(texts, noise, seed), texts, None, CONFIG)
        for name, noise, seed in (("a", 3.0, 1), ("b", 6.0, 2), ("c", 9.0, 3))
    }
    entries = compare(measured, ["a"], ["b", "c"], texts, Settings.of(CONFIG))
    raw = []
    for entry, baseline in zip(entries, "bc", strict=True):
        differences = measured["a"].hits_M - measured[baseline].hits_M
        sums = [differences[texts.clusters_M == cluster].sum() for cluster in sorted(set(texts.clusters_M))]
        flipped = [abs(np.dot(signs, sums)) for signs in product((1, -1), repeat=len(sums))]
        raw.append(np.mean(np.array(flipped) >= abs(sum(sums)) - 1e-9))
        assert entry["primary"]["p_value"] == pytest.approx(raw[-1])
        assert (entry["n_pairs"], entry["n_clusters"]) == (len(texts.pairs), 8)
    smaller, larger = min(raw), max(raw)
    adjusted = sorted(entry["primary"]["p_adjusted"] for entry in entries)
    assert adjusted == pytest.approx([min(1, 2 * smaller), min(1, max(2 * smaller, larger))])


def test_slices_by_number_are_equal_thirds_with_their_ends(texts: Texts) -> None:
    found = [part for part in pair_slices(texts) if part.property == "impressions, the fewer of the two"]
    impressions = np.array([record.impressions for record in texts.records], dtype=float)
    fewer = np.minimum(impressions[texts.pairs.better_M], impressions[texts.pairs.worse_M])
    assert [part.value.split()[0] for part in found] == ["low", "middle", "high"]
    assert (np.stack([part.members_M for part in found]).sum(axis=0) == 1).all()
    for part in found:
        low, high = fewer[part.members_M].min(), fewer[part.members_M].max()
        assert part.value.endswith(f"({low:g} to {high:g})")
        assert 0.2 < part.members_M.mean() < 0.45
    properties = {part.property for part in pair_slices(texts)}
    assert "age of the two" in properties, "the data has ages"
    assert not properties & {"kind", "year", "position among replies", "which came first"}, (
        "and none of these"
    )


def test_the_real_threads_have_the_pairs_that_were_counted_by_others() -> None:
    path = shared_data("social/history_meta_se_threads.jsonl.gz")
    records = import_records(StackExchangeSource(path=str(path)))
    pairs = within_group_pairs(
        [record.engagement for record in records], [record.prompt_id for record in records], min_gap=2
    )
    assert len(pairs) == 4307
