from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.shelf.research.evaluated import conditions as conditions_module
from polyray.shelf.research.evaluated.conditions import Compared, bin_of, conditions, largest_k
from polyray.shelf.research.evaluated.outcomes import Outcomes, read_outcomes
from polyray.shelf.research.evaluated.worst_prompts import CUT, MAX_CHARS, with_candidates
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, Classes, records_of


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions_module, "RESAMPLES", 200)


def read(records: list[SampleRecord]) -> dict[str, Outcomes]:
    names = dict.fromkeys(record.model for record in records)
    return read_outcomes(SampleList(records), {"models": {name: {"pass_at_k": {}} for name in names}})


@pytest.mark.parametrize(
    ("values", "number", "expected"),
    [
        ([0, 0, 0, 0.5, 0.6, 1], 3, [0, 0, 0, 1, 2, 2]),
        ([3, 1, 2, 4], 2, [1, 0, 0, 1]),
        ([0] * 9 + [1], 5, [0] * 9 + [1]),
        (range(10), 5, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_bins_share_equal_values_and_are_never_empty(
    values: list[float], number: int, expected: list[int]
) -> None:
    assert bin_of(np.array(values, dtype=np.float64), number).tolist() == expected


def test_largest_k_fits_into_half_of_the_samples() -> None:
    assert (largest_k((1, 2, 4, 8), 5), largest_k((2, 4), 1)) == (4, None)


HARD, EASY = [WRONG, WRONG, WRONG, WRONG], [1, 1, 2, 2]


def test_gains_by_difficulty_match_their_bins() -> None:
    """Two hard prompts, where `new` solves half, and two easy ones, where it solves half and `old` everything."""
    models = {
        "start": [HARD, HARD, EASY, EASY],
        "old": [HARD, HARD, EASY, EASY],
        "new": [[3, 3, WRONG, WRONG], [WRONG, WRONG, 4, 4], [1, 1, WRONG, WRONG], [WRONG, WRONG, 2, 2]],
    }
    found = conditions(read(records_of(models)), Compared("old", "start", (1, 2)))
    assert found["k"] == 2 and found["n_samples_used"] == {"condition": 2, "gain": 2}
    low, high = found["conditions"]["difficulty"]["models"]["new"]
    assert (low["from"], low["to"], low["n_problems"]) == (0.0, 0.0, 2)
    assert (high["from"], high["to"], high["n_clusters"]) == (1.0, 1.0, 2)
    values = [{name: gain["value"] for name, gain in each["gains"].items()} for each in (low, high)]
    # One of the two ODD samples of each prompt passes; EASY has two classes there.
    assert values[0] == pytest.approx({"pass@1": 0.5, "pass@2": 1.0, "distinct-correct@2": 1.0})
    assert values[1] == pytest.approx({"pass@1": -0.5, "pass@2": 0.0, "distinct-correct@2": -1.0})
    assert [each["gains"]["pass@1"]["says"] for each in (low, high)] == ["helps", "hurts"]
    counts = found["conditions"]["correct_classes"]["models"]["new"]
    assert [(each["from"], each["n_problems"]) for each in counts] == [(0.0, 2), (2.0, 2)]


def test_prompts_chosen_on_one_half_show_no_gain_by_chance() -> None:
    """Prompts chosen by the compared samples show a gain of equal models."""
    draw = np.random.default_rng(0)
    models = {name: np.where(draw.random((1500, 8)) < 0.5, 0, WRONG).tolist() for name in ("start", "new")}
    outcomes = read(records_of(models))
    found = conditions(outcomes, Compared("start", "start", (1, 2, 4)))
    lowest = found["conditions"]["difficulty"]["models"]["new"][0]
    even = outcomes["start"].passed_PN[:, ::2].mean(axis=1)
    naive = outcomes["new"].passed_PN.mean(axis=1) - outcomes["start"].passed_PN.mean(axis=1)
    assert naive[even <= lowest["to"]].mean() > 0.1, "the trap is there"
    gain = lowest["gains"]["pass@1"]
    assert gain["low"] < 0 < gain["high"] and abs(gain["value"]) < 0.04
    odd = outcomes["start"].passed_PN[:, 1::2].mean(axis=1)
    by_hand = (outcomes["new"].passed_PN[:, 1::2].mean(axis=1) - odd)[even <= lowest["to"]].mean()
    assert gain["value"] == pytest.approx(by_hand)


def compared(models: Classes, ks: tuple[int, ...], reference: str = "old", **more: Any) -> dict[str, Any]:
    return conditions(read(records_of(models, **more)), Compared(reference, reference, ks))


def test_conditions_by_length_and_without_spread() -> None:
    models = {"old": [[1, 1], [1, WRONG], [WRONG, 1]], "new": [[1, 1]] * 3}
    found = compared(models, (1,), prompts=("a", "bb", "ccc"))["conditions"]
    assert [each["from"] for each in found["prompt_length"]["models"]["new"]] == [1.0, 2.0, 3.0]
    assert [each["to"] for each in found["completion_length"]["models"]["new"]] == [10.0, 20.0, 30.0]
    silent = compared(models, (1,), prompts=("", "", ""))["conditions"]["prompt_length"]
    assert silent["why_not"] == "the samples do not say how long they are"
    alike = compared({"old": [[1, 1]] * 2, "new": [[1, 1]] * 2}, (1,))["conditions"]["difficulty"]
    assert (alike["why_not"], alike["models"]) == ("all prompts are alike in it: 1", {})


def test_conditions_of_one_cluster_or_few_samples_have_a_reason() -> None:
    models = {"old": [HARD, EASY, EASY], "new": [EASY, EASY, EASY]}
    found = compared(models, (1, 2), clusters=("a", "b", "c"))["conditions"]["difficulty"]["models"]["new"]
    expected = {"value": 1.0, "low": None, "high": None, "says": "one cluster alone"}
    assert found[0]["gains"]["pass@1"] == expected
    few = compared({"old": [[1, 1], [WRONG, 1]], "new": [[1, 1]] * 2}, (2,))
    assert few["k"] is None and "2 samples per prompt cannot be halved for k=2" in few["why_not"]
    assert few["conditions"] == few["worst"] == {}


def test_worst_prompts_are_chosen_on_one_half_and_measured_on_the_other() -> None:
    models = {
        "old": [[1, 1, 1, 1], [1, 1, 1, WRONG], [WRONG, 1, WRONG, 1]],
        "new": [[WRONG, WRONG, 1, WRONG], [WRONG] * 4, [WRONG] * 4],
    }
    records = records_of(models, prompts=("one", "x" * 3000, "three"))
    found = conditions(read(records), Compared("old", "old", (1, 2)))
    shown = with_candidates(found, SampleList(records), threshold=0.5)["worst"]["new"]
    losses = [(each["task_id"], each["loss_chosen_on"], each["loss_other_samples"]) for each in shown]
    assert losses == [("p1", 1.0, 0.5), ("p0", 0.5, 1.0)], "p2 lost nothing on the EVEN samples"
    assert [each["prompt"] for each in shown] == ["x" * MAX_CHARS + CUT, "one"]
    failed = [{"text": f"new {index}", "passed": False, "reward": 0.0} for index in (1, 3)]
    assert shown[0]["candidates"]["new"] == failed
    assert [each["passed"] for each in shown[0]["candidates"]["old"]] == [True, False]


def drawn(name: str, passed_PN: np.ndarray) -> Outcomes:
    ids = tuple(f"p{number}" for number in range(len(passed_PN)))
    zeros = np.zeros(passed_PN.shape, dtype=np.int64)
    return Outcomes(name, ids, ids, passed_PN, np.where(passed_PN, 0, WRONG), zeros, np.zeros(len(ids)))


def test_conditions_without_any_effect_find_one_at_the_nominal_rate() -> None:
    """A model of the same abilities that shares seeds with the reference: most of its samples are the same."""
    draw = np.random.default_rng(1)
    values, excluded = [], []
    for number in range(50):
        chances_P1 = draw.beta(1, 1, (300, 1))
        start = draw.random((300, 8)) < chances_P1
        other = draw.random((300, 8)) < chances_P1
        new = np.where(draw.random((300, 8)) < 0.7, start, other)
        models = {name: drawn(name, passed) for name, passed in (("start", start), ("new", new))}
        found = conditions(models, Compared("start", "start", (1, 2, 4), seed=number))
        gains = [each["gains"]["pass@1"] for each in found["conditions"]["difficulty"]["models"]["new"]]
        values.append([gain["value"] for gain in (gains[0], gains[-1])])
        excluded += [not gain["low"] <= 0 <= gain["high"] for gain in gains]
    mean, error = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(mean) < 3 * error), "neither easy nor hard prompts change by themselves"
    assert np.all(error < 0.01), "an effect of .03 would have been seen"
    assert 0.01 < np.mean(excluded) < 0.10, "the nominal rate is .05"


def test_conditions_of_an_identical_model_are_exactly_zero() -> None:
    draw = np.random.default_rng(2)
    classes = np.where(draw.random((200, 8)) < 0.5, draw.integers(0, 3, (200, 8)), WRONG).tolist()
    found = compared({"start": classes, "same": classes}, (1, 2, 4), "start")
    for condition in found["conditions"].values():
        for each in condition["models"].get("same", ()):
            assert [gain["value"] for gain in each["gains"].values()] == [0.0, 0.0, 0.0]
