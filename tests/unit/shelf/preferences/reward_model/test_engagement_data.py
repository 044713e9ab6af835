"""Arrays from records against brute force: parts, pairs, weights, targets."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import DataError
from polyray.metrics.preference import certainty_weights, log_odds_variance
from polyray.shelf.preferences.engagement import EngagementRecord, read_records
from polyray.shelf.preferences.engagement.priors import estimated_prior
from polyray.shelf.preferences.reward_model import data as reward_data
from polyray.shelf.preferences.reward_model.data import TrainingData, load_training_data
from polyray.shelf.preferences.reward_model.parts import half_of
from tests.unit.shelf.preferences.reward_model.stand_ins import liking, reward_config, write_records


def records_in(path: Path) -> list[EngagementRecord]:
    return [record for record in read_records(path) if isinstance(record, EngagementRecord)]


def pairs_of(data: TrainingData, part: str = "train") -> set[tuple[str, str]]:
    rows = data.train if part == "train" else data.validation
    return {
        tuple(data.texts[data.completion_I[at]] for at in pair)  # type: ignore[misc]
        for pair in rows.pairs_P2
    }


def test_pairs_are_those_of_brute_force_and_of_their_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    data = load_training_data(reward_config(path, data__min_gap=2.0))
    for part in ("train", "validation"):
        records = [r for r in records_in(path) if r.part == part]
        expected = {
            (a.completion, b.completion)
            for x, y in combinations(records, 2)
            for a, b in ((x, y), (y, x))
            if a.prompt_id == b.prompt_id and a.engagement - b.engagement >= 2.0
        }
        assert pairs_of(data, part) == expected
    tested = {f"c{number}" for number in range(0, 60, 10)}
    assert not tested & set(data.clusters)
    assert all(f"prompt {number}" not in data.texts for number in range(0, 60, 10))
    monkeypatch.setattr(reward_data, "MAX_PAIRS_PER_PROMPT", 2)
    few = load_training_data(reward_config(path))
    assert few.counts["train_pairs"] == 2 * 42
    assert few.counts["pairs_above_max_per_prompt"] == 4 * (42 + 12)


def test_halves_share_no_cluster_and_miss_none(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    halves = {
        half: set(load_training_data(reward_config(path, data__half=half)).clusters)
        for half in ("all", "train", "eval")
    }
    assert not halves["train"] & halves["eval"]
    assert halves["train"] | halves["eval"] == halves["all"]
    assert 15 < len(halves["train"]) < 39
    assert {half_of(name, 0) for name in halves["eval"]} == {"eval"}
    other = set(load_training_data(reward_config(path, data__half="train", data__split_seed=1)).clusters)
    assert other != halves["train"]


def test_weights_of_clicks_and_of_counts(tmp_path: Path) -> None:
    def clicked(text: str, rng: np.random.Generator) -> dict[str, object]:
        shown = int(rng.integers(500, 3000))
        clicks = int(rng.binomial(shown, 0.02))
        return {
            "engagement": float(np.log((clicks + 1) / (shown - clicks + 1))),
            "clicks": clicks,
            "impressions": shown,
        }

    path = write_records(tmp_path / "r.jsonl", clicked)
    data = load_training_data(reward_config(path, objective__type="regression"))
    records = {r.completion: r for r in records_in(path) if r.part != "test"}
    prior = estimated_prior(
        [r.clicks or 0 for r in records.values()], [r.impressions or 0 for r in records.values()]
    )
    items = [records[data.texts[at]] for at in data.completion_I]

    def variance(record: EngagementRecord) -> float:
        return float(
            log_odds_variance(
                np.array(record.clicks), np.array(record.impressions), prior.rate, prior.impressions
            )
        )

    for (a, b), weight in zip(data.train.pairs_P2, data.train.pair_weight_P, strict=True):
        gap = items[a].engagement - items[b].engagement
        assert weight == pytest.approx(
            float(certainty_weights(np.array(gap), np.array(variance(items[a]) + variance(items[b]))))
        )
    siblings = [at for at in data.train.items_N if items[at].prompt_id == "p2"]
    precision = np.array([1 / variance(items[at]) for at in siblings])
    engagement = np.array([items[at].engagement for at in siblings])
    mean = (precision * engagement).sum() / precision.sum()
    place = {at: number for number, at in enumerate(data.train.items_N)}
    targets = data.train.target_N[[place[at] for at in siblings]]
    np.testing.assert_allclose(targets, engagement - mean, atol=1e-12)
    assert data.train.target_weight_N.mean() == pytest.approx(1.0)

    path = write_records(tmp_path / "votes.jsonl", liking)
    data = load_training_data(reward_config(path))
    records = {r.completion: r for r in records_in(path)}
    gaps = np.array([
        records[data.texts[data.completion_I[a]]].engagement - records[data.texts[data.completion_I[b]]].engagement
        for a, b in data.train.pairs_P2
    ])  # fmt: skip
    np.testing.assert_allclose(data.train.pair_weight_P, gaps / (gaps + np.median(gaps)))
    with pytest.raises(DataError, match=r"objective\.pair_weight=certainty "):
        load_training_data(reward_config(path, objective__pair_weight="certainty"))


def test_removing_leaves_pairs_of_like_age_and_position(tmp_path: Path) -> None:
    def aged(text: str, rng: np.random.Generator) -> dict[str, object]:
        number = int(text.split()[-1])
        return {**liking(text, rng), "age_s": [600.0, 3000.0, 90000.0, 100000.0][number], "position": number}

    path = write_records(tmp_path / "r.jsonl", aged)
    data = load_training_data(reward_config(path, confounders__mode="remove"))
    kept = {frozenset(int(text.split()[-1]) for text in pair) for pair in pairs_of(data)}
    assert kept == {frozenset({0, 1}), frozenset({2, 3})}  # 4200 s : 6600 s, and 93600 s : 103600 s
    assert data.counts["pairs_of_unequal_age_or_position"] == 4 * (42 + 12)
    everything = load_training_data(reward_config(path))
    assert everything.counts["train_pairs"] == 6 * 42
    is_train = np.isin(np.arange(len(everything.prompt_I)), everything.train.items_N)
    np.testing.assert_allclose(everything.confounders_IK[is_train].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(everything.confounders_IK[is_train].std(axis=0), 1, atol=1e-5)
    # Where nobody recorded either, there is nothing to remove.
    plain = write_records(tmp_path / "plain.jsonl", liking)
    found = load_training_data(reward_config(plain, confounders__mode="remove"))
    assert (found.counts["train_pairs"], np.abs(found.confounders_IK).max()) == (6 * 42, 0)


def test_preference_pairs_are_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"p{at // 2}", "chosen": f"good {at}", "rejected": f"bad {at}", "gap": 2.0}
        for at in range(24)
    ]
    rows.append({"prompt": "p1", "chosen": "fine", "rejected": " "})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = reward_config(path, data__test_share=0.0, data__validation_share=0.25)
    data = load_training_data(config)
    found = pairs_of(data) | pairs_of(data, "validation")
    assert found == {(f"good {at}", f"bad {at}") for at in range(24)}
    assert (data.counts["blank_pairs"], data.counts["train_clusters"]) == (1, 9)
    np.testing.assert_allclose(data.train.pair_weight_P, 0.5)
    with pytest.raises(DataError, match=r"pairs\.jsonl: .*objective\.type=both"):
        load_training_data(
            config.model_copy(update={"objective": config.objective.model_copy(update={"type": "both"})})
        )


def test_unusable_data_and_settings_are_named(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking, clusters=6)
    with pytest.raises(DataError, match=r"train part .*data\.min_gap=1000"):
        load_training_data(reward_config(path, data__min_gap=1000.0))
    with pytest.raises(ValueError, match=r"confounders\.mode=remove .*objective\.type=both"):
        TrainRewardConfig.model_validate(
            {
                "name": "a",
                "data": {"path": "x"},
                "confounders": {"mode": "remove"},
                "objective": {"type": "both"},
            }
        )
    with pytest.raises(ValueError, match=r"data\.path .*data\.source"):
        TrainRewardConfig.model_validate({"name": "a", "data": {}})
