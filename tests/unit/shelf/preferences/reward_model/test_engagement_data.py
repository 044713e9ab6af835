"""Arrays from records against brute force: parts, pairs, weights, targets."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.loader import build_config
from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import ConfigError, DataError
from polyray.metrics.preference import certainty_weights, log_odds_variance
from polyray.shelf.preferences.engagement import EngagementRecord, read_records
from polyray.shelf.preferences.engagement.priors import estimated_prior
from polyray.shelf.preferences.reward_model import data as reward_data
from polyray.shelf.preferences.reward_model.data import Rows, TrainingData, load_training_data
from polyray.shelf.preferences.reward_model.parts import half_of
from tests.unit.shelf.preferences.reward_model.stand_ins import liking, reward_config, write_records


def records_in(path: Path) -> list[EngagementRecord]:
    return [record for record in read_records(path) if isinstance(record, EngagementRecord)]


def pairs_of(rows: Rows, data: TrainingData) -> set[tuple[str, ...]]:
    return {tuple(data.texts[data.completion_I[at]] for at in pair) for pair in rows.pairs_P2}


def test_pairs_match_brute_force_within_their_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    data = load_training_data(reward_config(path, data__min_gap=2.0))
    for part, rows in (("train", data.train), ("validation", data.validation)):
        expected = {
            (a.completion, b.completion)
            for a, b in permutations([r for r in records_in(path) if r.part == part], 2)
            if a.prompt_id == b.prompt_id and a.engagement - b.engagement >= 2.0
        }
        assert pairs_of(rows, data) == expected
    assert not {f"c{number}" for number in range(0, 60, 10)} & set(data.clusters)
    assert all(f"prompt {number}" not in data.texts for number in range(0, 60, 10))
    monkeypatch.setattr(reward_data, "MAX_PAIRS_PER_PROMPT", 2)
    few = load_training_data(reward_config(path))
    assert few.counts["train_pairs"] == 2 * 42
    assert few.counts["pairs_above_max_per_prompt"] == 4 * (42 + 12)


def test_halves_share_no_cluster_and_miss_none(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)

    def clusters(**changes: Any) -> set[str]:
        return set(load_training_data(reward_config(path, **changes)).clusters)

    train, held = clusters(data__half="train"), clusters(data__half="eval")
    assert not train & held
    assert train | held == clusters(data__half="all")
    assert 15 < len(train) < 39
    assert {half_of(name, 0) for name in held} == {"eval"}
    assert clusters(data__half="train", data__split_seed=1) != train


def clicked(text: str, rng: np.random.Generator) -> dict[str, object]:
    shown = int(rng.integers(500, 3000))
    clicks = int(rng.binomial(shown, 0.02))
    log_odds = float(np.log((clicks + 1) / (shown - clicks + 1)))
    return {"engagement": log_odds, "clicks": clicks, "impressions": shown}


def test_weights_and_targets_of_clicks_follow_their_variance(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", clicked)
    data = load_training_data(reward_config(path, objective__type="regression"))
    records = {r.completion: r for r in records_in(path) if r.part != "test"}
    items = [records[data.texts[at]] for at in data.completion_I]
    clicks, shown = (
        np.array([getattr(r, name) for r in records.values()]) for name in ("clicks", "impressions")
    )
    prior = estimated_prior(clicks.tolist(), shown.tolist())
    found = log_odds_variance(clicks, shown, prior.rate, prior.impressions)
    variance = dict(zip(records, found.tolist(), strict=True))
    for (a, b), weight in zip(data.train.pairs_P2, data.train.pair_weight_P, strict=True):
        gap = items[a].engagement - items[b].engagement
        both = variance[items[a].completion] + variance[items[b].completion]
        assert weight == pytest.approx(float(certainty_weights(np.array(gap), np.array(both))))
    siblings = [at for at in data.train.items_N if items[at].prompt_id == "p2"]
    engagement = np.array([items[at].engagement for at in siblings])
    mean = np.average(engagement, weights=[1 / variance[items[at].completion] for at in siblings])
    places = [data.train.items_N.tolist().index(at) for at in siblings]
    np.testing.assert_allclose(data.train.target_N[places], engagement - mean, atol=1e-12)
    assert data.train.target_weight_N.mean() == pytest.approx(1.0)


def test_weights_of_counts_follow_their_gap(tmp_path: Path) -> None:
    path = write_records(tmp_path / "votes.jsonl", liking)
    data = load_training_data(reward_config(path))
    engagement = {r.completion: r.engagement for r in records_in(path)}
    values = np.array([engagement[data.texts[at]] for at in data.completion_I])
    gaps = values[data.train.pairs_P2[:, 0]] - values[data.train.pairs_P2[:, 1]]
    np.testing.assert_allclose(data.train.pair_weight_P, gaps / (gaps + np.median(gaps)))
    with pytest.raises(DataError, match=r"objective\.pair_weight=certainty "):
        load_training_data(reward_config(path, objective__pair_weight="certainty"))


def test_confounders_that_are_removed_leave_pairs_of_like_age_and_position(tmp_path: Path) -> None:
    def aged(text: str, rng: np.random.Generator) -> dict[str, object]:
        number = int(text.split()[-1])
        return {**liking(text, rng), "age_s": [600.0, 3000.0, 90000.0, 100000.0][number], "position": number}

    path = write_records(tmp_path / "r.jsonl", aged)
    data = load_training_data(reward_config(path, confounders__mode="remove"))
    kept = {frozenset(int(text.split()[-1]) for text in pair) for pair in pairs_of(data.train, data)}
    assert kept == {frozenset({0, 1}), frozenset({2, 3})}  # 4200 s : 6600 s, and 93600 s : 103600 s
    assert data.counts["pairs_of_unequal_age_or_position"] == 4 * (42 + 12)
    everything = load_training_data(reward_config(path))
    assert everything.counts["train_pairs"] == 6 * 42
    values = everything.confounders_IK[everything.train.items_N]
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)
    plain = write_records(tmp_path / "plain.jsonl", liking)  # without ages and positions
    found = load_training_data(reward_config(plain, confounders__mode="remove"))
    assert (found.counts["train_pairs"], np.abs(found.confounders_IK).max()) == (6 * 42, 0)


def test_preference_pairs_are_read_unchanged(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{at // 2}", "chosen": f"good {at}", "rejected": f"bad {at}", "gap": 2.0}
        for at in range(24)
    ]
    rows.append({"prompt": "p1", "chosen": "fine", "rejected": " "})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shares = {"data__test_share": 0.0, "data__validation_share": 0.25}
    data = load_training_data(reward_config(path, **shares))
    found = pairs_of(data.train, data) | pairs_of(data.validation, data)
    assert found == {(f"good {at}", f"bad {at}") for at in range(24)}
    assert (data.counts["blank_pairs"], data.counts["train_clusters"]) == (1, 9)
    np.testing.assert_allclose(data.train.pair_weight_P, 0.5)
    with pytest.raises(DataError, match=r"pairs\.jsonl: .*objective\.type=both"):
        load_training_data(reward_config(path, **shares, objective__type="both"))


def test_training_data_without_pairs_and_contradicting_settings_are_named(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking, clusters=6)
    with pytest.raises(DataError, match=r"train part .*data\.min_gap=1000"):
        load_training_data(reward_config(path, data__min_gap=1000.0))
    with pytest.raises(ConfigError, match=r"confounders\.mode=remove .*objective\.type=both"):
        reward_config(path, confounders__mode="remove", objective__type="both")
    with pytest.raises(ConfigError, match=r"data\.path .*data\.source"):
        build_config(TrainRewardConfig, {"name": "a", "data": {}})
