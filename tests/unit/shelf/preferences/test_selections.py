"""Measured USQ against a literal example and against a computation by hand; positions against scipy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from polyray.data.selections import SelectionRecord, StoredRecord
from polyray.metrics import bootstrap_mean, paired_bootstrap
from polyray.shelf.preferences.selections import Bootstrap, measured_selection, position_bias
from tests.unit.data.selections.builders import candidates_record

FEW = Bootstrap(resamples=200, seed=3)


def answered(index: int | None, *arguments: Any, **more: Any) -> StoredRecord:
    shown = candidates_record(*arguments, **more)
    return StoredRecord(shown, SelectionRecord("sel", 1.0, shown.id, "ann", index))


def test_three_sets_by_hand() -> None:
    found = measured_selection(
        [
            answered(1, "c1", ["aa", "b"], [0.2, 0.8], prompt="p1", selected_index=0),
            answered(0, "c2", ["aa", "b"], [0.4, 0.1], prompt="p2", selected_index=0, selector="reward"),
            answered(0, "c3", ["a", "bbb"], [0.6, 0.6], prompt="p3", selected_index=1, logprobs=[-2.0, -1.0]),
            answered(None, "c4", ["a", "b"], [0.0, 0.0], prompt="p4"),
            answered(1, "c5", ["a", "b"], [0.0, None], prompt="p5", selected_index=1),
            StoredRecord(candidates_record("c6", ["a", "b"], [1.0, 1.0]), None),
        ]
    )
    (entry,) = found
    assert (entry["model"], entry["k"]) == ("policy-v17", 2)
    assert [entry[name] for name in ("selections", "picked", "scored", "unscored")] == [5, 4, 3, 1]
    usq = {name: interval["value"] for name, interval in entry["usq"].items() if name != "selectors"}
    assert usq == pytest.approx({"measured": 1.8 / 3, "selected": 1.2 / 3, "best": 1.8 / 3, "mean": 1.35 / 3})
    selectors = {name: interval["value"] for name, interval in entry["usq"]["selectors"].items()}
    assert set(selectors) == {"reward", "logprob", "length", "first", "random", "noisy_user", "diverse"}
    assert selectors["reward"] == pytest.approx((0.8 + 0.4 + 0.6) / 3)
    assert selectors["logprob"] == pytest.approx(
        (0.2 + 0.4 + 0.6) / 3
    )  # c1, c3: as stored; c2: the likelier one
    assert selectors["length"] == pytest.approx((0.2 + 0.4 + 0.6) / 3)
    assert selectors["first"] == pytest.approx((0.2 + 0.4 + 0.6) / 3)
    assert entry["measured_minus_selected"]["difference"] == pytest.approx(0.2)
    assert entry["none_share"]["value"] == pytest.approx(1 / 5)
    assert entry["agreement"]["value"] == pytest.approx(2 / 4)  # c2 and c5; c5 needs no scores for that
    assert entry["agreement_by_chance"] == pytest.approx(0.5)
    assert entry["positions"]["picked"] == [2, 2]


def test_own_selector_is_the_selector_of_the_service() -> None:
    """The registry's selector of the same name may pick another candidate."""
    shown: dict[str, Any] = {"selected_index": 2, "selector": "diverse", "prompt": "p"}
    (entry,) = measured_selection([answered(0, "c1", ["a a", "a b", "b b"], [0.1, 0.5, 0.9], **shown)])
    assert entry["usq"]["selectors"]["diverse"]["value"] == entry["usq"]["selected"]["value"] == 0.9
    shown["selector"] = "first"
    (entry,) = measured_selection([answered(0, "c1", ["a a", "a b", "b b"], [0.1, 0.5, 0.9], **shown)])
    assert entry["usq"]["selectors"]["first"]["value"] == entry["usq"]["selected"]["value"] == 0.9
    assert entry["usq"]["selectors"]["diverse"]["value"] == 0.1


def test_a_selector_that_cannot_tell_is_worth_its_expectation() -> None:
    record = answered(0, "c1", ["aa", "bb", "c"], [1.0, 0.0, 0.5], selector="first")
    (entry,) = measured_selection([record])
    assert entry["usq"]["selectors"]["length"]["value"] == 0.5  # the two longest are worth 1 and 0


def made_records(num_sets: int) -> list[StoredRecord]:
    rng = random.Random(5)
    records = []
    for number in range(num_sets):
        model, k = rng.choice(["base", "policy-v17"]), rng.choice([2, 4])
        shown = k if rng.random() < 0.8 else rng.randint(1, k)
        scores: list[float | None] = [rng.random() for _ in range(shown)]
        if rng.random() < 0.1:
            scores[rng.randrange(shown)] = None
        record = answered(
            None if rng.random() < 0.15 else rng.randrange(shown),
            f"c{number}",
            [f"text {rng.random()}" for _ in range(shown)],
            scores,
            prompt=f"prompt {rng.randrange(12)}",
            model=model,
            k=k,
            selector=rng.choice(["logprob", "first"]),
            selected_index=rng.randrange(shown),
            logprobs=[-10 * rng.random() for _ in range(shown)],
        )
        records.append(record if rng.random() < 0.9 else StoredRecord(record.candidates, None))
    return records


def test_many_sets_against_a_computation_by_hand() -> None:
    records = made_records(400)
    found = {(entry["model"], entry["k"]): entry for entry in measured_selection(records, FEW)}
    assert list(found) == [("base", 2), ("base", 4), ("policy-v17", 2), ("policy-v17", 4)]
    for (model, k), entry in found.items():
        of_group = [r for r in records if r.candidates.model == model and r.candidates.request["k"] == k]
        rows: dict[str, list[float]] = {
            name: [] for name in ("measured", "selected", "best", "mean", "logprob")
        }
        clusters, none, none_clusters, agreed, agreed_clusters = [], [], [], [], []
        for record in of_group:
            if record.selection is None:
                continue
            answer, index = record.candidates.answer, record.selection.selected_index
            prompt = record.candidates.request["prompt"]
            none.append(index is None)
            none_clusters.append(prompt)
            if index is None:
                continue
            if len(answer["candidates"]) > 1:
                agreed.append(index == answer["selected_index"])
                agreed_clusters.append(prompt)
            scores = [candidate["score"] for candidate in answer["candidates"]]
            if None in scores:
                continue
            logprobs = [candidate["logprob"] for candidate in answer["candidates"]]
            own = answer["selector"] == "logprob"
            likeliest = answer["selected_index"] if own else logprobs.index(max(logprobs))
            rows["measured"].append(scores[index])
            rows["selected"].append(scores[answer["selected_index"]])
            rows["best"].append(max(scores))
            rows["mean"].append(sum(scores) / len(scores))
            rows["logprob"].append(scores[likeliest])
            clusters.append(prompt)
        assert entry["scored"] == len(clusters) > 20
        for name, values in rows.items():
            interval = entry["usq"].get(name) or entry["usq"]["selectors"][name]
            assert interval == pytest.approx(interval_of(values, clusters)), name
        assert entry["none_share"] == pytest.approx(interval_of(none, none_clusters))
        assert entry["agreement"] == pytest.approx(interval_of(agreed, agreed_clusters))
        by_hand = paired_bootstrap(rows["measured"], rows["selected"], names(clusters), resamples=200, seed=3)
        assert entry["measured_minus_selected"] == pytest.approx(
            {"difference": by_hand.difference, "low": by_hand.low, "high": by_hand.high}
        )
        assert interval_of(rows["measured"], None)["low"] != pytest.approx(
            entry["usq"]["measured"]["low"], abs=1e-6
        )


def names(clusters: list[str] | None) -> list[int] | None:
    """Clusters are drawn in the order of their labels, so these have the labels' order that the code has."""
    from polyray.shelf.preferences.engagement.reading import text_hash

    if clusters is None:
        return None
    order = sorted({text_hash(cluster) for cluster in clusters})
    return [order.index(text_hash(cluster)) for cluster in clusters]


def interval_of(values: list[float] | list[bool], clusters: list[str] | None) -> dict[str, float]:
    found = bootstrap_mean(np.array(values, dtype=float), names(clusters), resamples=200, seed=3)
    return {"value": found.value, "low": found.low, "high": found.high}


def test_positions_of_sets_of_one_size_against_scipy() -> None:
    counts = [14, 9, 3, 6]
    found = position_bias([(4, place) for place, count in enumerate(counts) for _ in range(count)])
    by_scipy = chisquare(counts)
    assert found is not None
    assert (found["picked"], found["expected"], found["degrees"]) == (counts, [8.0] * 4, 3)
    assert found["chi_square"] == pytest.approx(by_scipy.statistic)
    assert found["p"] == pytest.approx(by_scipy.pvalue)
    assert found["smallest_expected"] == 8.0


def test_positions_of_sets_of_several_sizes_add_up() -> None:
    """Two at the third place of three, eight at the first of two: 2 * (2/3)^2 / (2/3) + (4/3)^2 / (2/3), and 8."""
    found = position_bias([(3, 2)] * 2 + [(2, 0)] * 8)
    assert found is not None
    assert found["picked"] == [8, 0, 2]
    assert found["expected"] == pytest.approx([4 + 2 / 3, 4 + 2 / 3, 2 / 3])
    assert found["chi_square"] == pytest.approx(2 * (2 / 3) + (4 / 3) ** 2 / (2 / 3) + 8)
    assert found["degrees"] == 3
    assert found["smallest_expected"] == pytest.approx(2 / 3)


def test_position_bias_of_uniform_picks_is_rarely_significant() -> None:
    """Without a bias p is uniform: 5 % are below 0.05."""
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(400):
        shown = rng.choice([2, 3, 4], size=200)
        found = position_bias([(int(number), int(rng.integers(number))) for number in shown])
        assert found is not None
        below += found["p"] < 0.05
    assert 8 <= below <= 34  # 20 expected, 4.4 deviations of 4.4 either way leave it once in 10^5


def test_selection_without_scores_or_picks_has_no_values() -> None:
    (unscored,) = measured_selection([answered(1, "c1", ["a", "b"], selected_index=1)])
    assert (unscored["scored"], unscored["unscored"]) == (0, 1)
    assert unscored["usq"]["measured"] is None and unscored["usq"]["selectors"]["first"] is None
    assert unscored["measured_minus_selected"] is None
    assert unscored["agreement"]["value"] == 1.0
    (none,) = measured_selection([answered(None, "c1", ["a", "b"], [1.0, 0.0])])
    assert (none["picked"], none["scored"], none["none_share"]["value"]) == (0, 0, 1.0)
    assert none["agreement"] is None and none["agreement_by_chance"] is None and none["positions"] is None
    assert measured_selection([StoredRecord(candidates_record("c1", ["a"]), None)]) == []
