"""Measured USQ against brute force; positions against scipy."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from polyray.data.selections import SelectionRecord, StoredRecord
from polyray.metrics import bootstrap_mean, paired_bootstrap
from polyray.shelf.preferences.engagement.reading import text_hash
from polyray.shelf.preferences.selections import Bootstrap, measured_selection, position_bias
from tests.unit.data.selections.builders import candidates_record

FEW = Bootstrap(resamples=200, seed=3)


def answered(index: int | None, *arguments: Any, **more: Any) -> StoredRecord:
    shown = candidates_record(*arguments, **more)
    return StoredRecord(shown, SelectionRecord("sel", 1.0, shown.id, "ann", index))


@pytest.mark.parametrize(("own", "others_value"), [("diverse", 0.1), ("first", 0.1)])
def test_measured_selection_takes_the_own_selector_from_the_service(own: str, others_value: float) -> None:
    """The registry's selector of the same name may pick another candidate."""
    texts, scores = ["a a", "a b", "b b"], [0.1, 0.5, 0.9]
    (entry,) = measured_selection([answered(0, "c1", texts, scores, selected_index=2, selector=own)])
    values = {name: interval["value"] for name, interval in entry["usq"]["selectors"].items()}
    assert set(values) == {"reward", "logprob", "length", "first", "random", "noisy_user", "diverse"}
    assert values[own] == entry["usq"]["selected"]["value"] == values["reward"] == 0.9
    assert values["first" if own == "diverse" else "diverse"] == others_value
    assert values["length"] == pytest.approx(0.5)  # all are as long: the expectation


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


def test_measured_selection_of_many_sets_matches_brute_force() -> None:
    records = made_records(400)
    found = {(entry["model"], entry["k"]): entry for entry in measured_selection(records, FEW)}
    assert list(found) == [("base", 2), ("base", 4), ("policy-v17", 2), ("policy-v17", 4)]
    for (model, k), entry in found.items():
        rows: dict[str, list[tuple[float, str]]] = defaultdict(list)  # values and their prompts
        for stored in records:
            request, answer, selection = stored.candidates.request, stored.candidates.answer, stored.selection
            if (stored.candidates.model, request["k"]) != (model, k) or selection is None:
                continue
            index, chosen, prompt = selection.selected_index, answer["selected_index"], request["prompt"]
            rows["none_share"].append((index is None, prompt))
            if index is None:
                continue
            rows["picked"].append((index, prompt))
            if len(answer["candidates"]) > 1:
                rows["shown"].append((len(answer["candidates"]), prompt))
                rows["agreement"].append((index == chosen, prompt))
            scores = [candidate["score"] for candidate in answer["candidates"]]
            if None in scores:
                continue
            logprobs = [candidate["logprob"] for candidate in answer["candidates"]]
            likeliest = chosen if answer["selector"] == "logprob" else logprobs.index(max(logprobs))
            for name, value in (
                ("measured", scores[index]),
                ("selected", scores[chosen]),
                ("best", max(scores)),
                ("mean", sum(scores) / len(scores)),
                ("logprob", scores[likeliest]),
            ):
                rows[name].append((value, prompt))
        assert entry["selections"] == len(rows["none_share"])
        assert (entry["picked"], sum(entry["positions"]["picked"])) == (
            len(rows.pop("picked")),
            len(rows["shown"]),
        )
        assert entry["scored"] == len(rows["measured"]) > 20
        assert entry["unscored"] == entry["picked"] - entry["scored"] > 0
        by_chance = np.mean([1 / number for number, _ in rows.pop("shown")])
        assert entry["agreement_by_chance"] == pytest.approx(by_chance)
        for name, values in rows.items():
            interval = entry["usq"].get(name) or entry["usq"]["selectors"].get(name) or entry[name]
            assert interval == pytest.approx(interval_of(values)), name
        measured, prompts = zip(*rows["measured"], strict=True)
        selected = [value for value, _ in rows["selected"]]
        expected = paired_bootstrap(list(measured), selected, labels(prompts), resamples=200, seed=3)
        assert entry["measured_minus_selected"] == pytest.approx(
            {"difference": expected.difference, "low": expected.low, "high": expected.high}
        )


def labels(prompts: Sequence[str]) -> list[int]:
    """Clusters are drawn in the order of their labels, so these have the order of the program's."""
    order = sorted({text_hash(prompt) for prompt in prompts})
    return [order.index(text_hash(prompt)) for prompt in prompts]


def interval_of(rows: list[tuple[float, str]]) -> dict[str, float]:
    values, prompts = zip(*rows, strict=True)
    found = bootstrap_mean(np.array(values, dtype=float), labels(prompts), resamples=200, seed=3)
    return {"value": found.value, "low": found.low, "high": found.high}


@pytest.mark.parametrize(
    ("picks", "picked", "expected", "statistic"),
    [
        ([(4, 0)] * 14 + [(4, 1)] * 9 + [(4, 2)] * 3 + [(4, 3)] * 6, [14, 9, 3, 6], [8.0] * 4, 8.25),
        # 2 * (2/3)^2 / (2/3) + (4/3)^2 / (2/3) at sets of three, and 8 at sets of two
        ([(3, 2)] * 2 + [(2, 0)] * 8, [8, 0, 2], [14 / 3, 14 / 3, 2 / 3], 4 + 8),
    ],
)
def test_position_bias_adds_the_statistics_of_each_size(
    picks: list[tuple[int, int]], picked: list[int], expected: list[float], statistic: float
) -> None:
    found = position_bias(picks)
    assert found is not None
    assert (found["picked"], found["degrees"]) == (picked, 3)
    assert found["expected"] == pytest.approx(expected)
    assert found["chi_square"] == pytest.approx(statistic)
    assert found["p"] == pytest.approx(chi2.sf(statistic, 3))
    assert found["smallest_expected"] == pytest.approx(min(expected))


def test_measured_selection_without_scores_or_picks_has_no_values() -> None:
    (unscored,) = measured_selection([answered(1, "c1", ["a", "b"], selected_index=1)])
    assert (unscored["scored"], unscored["unscored"], unscored["agreement"]["value"]) == (0, 1, 1.0)
    assert unscored["usq"]["measured"] is unscored["usq"]["selectors"]["first"] is None
    assert unscored["measured_minus_selected"] is None
    (none,) = measured_selection([answered(None, "c1", ["a", "b"], [1.0, 0.0])])
    assert (none["picked"], none["scored"], none["none_share"]["value"]) == (0, 0, 1.0)
    assert none["agreement"] is none["agreement_by_chance"] is none["positions"] is None
    assert measured_selection([StoredRecord(candidates_record("c1", ["a"]), None)]) == []
