from __future__ import annotations

import numpy as np
import pytest

from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.shelf.research.evaluated import conditions as conditions_module
from polyray.shelf.research.evaluated.conditions import Compared, bin_of, conditions, largest_k
from polyray.shelf.research.evaluated.outcomes import Outcomes, read_outcomes
from polyray.shelf.research.evaluated.worst_prompts import CUT, MAX_CHARS, with_candidates
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, records_of


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions_module, "RESAMPLES", 200)


def read(records: list[SampleRecord]) -> dict[str, Outcomes]:
    names = dict.fromkeys(record.model for record in records)
    return read_outcomes(SampleList(records), {"models": {name: {"pass_at_k": {}} for name in names}})


def test_equal_values_share_a_bin_and_no_bin_is_empty() -> None:
    assert bin_of(np.array([0.0, 0, 0, 0.5, 0.6, 1.0]), 3).tolist() == [0, 0, 0, 1, 2, 2]
    assert bin_of(np.array([3.0, 1, 2, 4]), 2).tolist() == [1, 0, 0, 1]
    assert bin_of(np.array([0.0] * 9 + [1.0]), 5).tolist() == [0] * 9 + [1]
    assert bin_of(np.arange(10, dtype=np.float64), 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_the_largest_k_must_fit_into_half_of_the_samples() -> None:
    assert largest_k((1, 2, 4, 8), 5) == 4
    assert largest_k((2, 4), 1) is None


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


def test_conditions_by_length_and_without_any_spread() -> None:
    models = {"old": [[1, 1], [1, WRONG], [WRONG, 1]], "new": [[1, 1]] * 3}
    found = conditions(read(records_of(models, prompts=("a", "bb", "ccc"))), Compared("old", "old", (1,)))[
        "conditions"
    ]
    assert [each["from"] for each in found["prompt_length"]["models"]["new"]] == [1.0, 2.0, 3.0]
    assert [each["to"] for each in found["completion_length"]["models"]["new"]] == [10.0, 20.0, 30.0]
    silent = conditions(read(records_of(models, prompts=("", "", ""))), Compared("old", "old", (1,)))
    assert silent["conditions"]["prompt_length"]["why_not"] == "the samples do not say how long they are"
    alike = conditions(
        read(records_of({"old": [[1, 1]] * 2, "new": [[1, 1]] * 2})), Compared("old", "old", (1,))
    )
    assert alike["conditions"]["difficulty"] == {
        "label": "share of samples of old that pass", "why_not": "all prompts are alike in it: 1", "models": {},
    }  # fmt: skip


def test_one_cluster_has_no_interval() -> None:
    models = {"old": [HARD, EASY, EASY], "new": [EASY, EASY, EASY]}
    found = conditions(read(records_of(models, clusters=("a", "b", "c"))), Compared("old", "old", (1, 2)))
    gain = found["conditions"]["difficulty"]["models"]["new"][0]["gains"]["pass@1"]
    assert gain == {"value": 1.0, "low": None, "high": None, "says": "one cluster alone"}


def test_too_few_samples_have_a_reason() -> None:
    models = {"old": [[1, 1], [WRONG, 1]], "new": [[1, 1]] * 2}
    found = conditions(read(records_of(models)), Compared("old", "old", (2,)))
    assert found["k"] is None and "2 samples per prompt cannot be halved for k=2" in found["why_not"]
    assert found["conditions"] == found["worst"] == {}


def test_worst_prompts_are_chosen_on_one_half_and_measured_on_the_other() -> None:
    models = {
        "old": [[1, 1, 1, 1], [1, 1, 1, WRONG], [WRONG, 1, WRONG, 1]],
        "new": [[WRONG, WRONG, 1, WRONG], [WRONG, WRONG, WRONG, WRONG], [WRONG, WRONG, WRONG, WRONG]],
    }
    records = records_of(models)
    found = conditions(read(records), Compared("old", "old", (1, 2)))
    shown = with_candidates(found, SampleList(records), threshold=0.5)["worst"]["new"]
    losses = [(each["task_id"], each["loss_chosen_on"], each["loss_other_samples"]) for each in shown]
    assert losses == [("p1", 1.0, 0.5), ("p0", 0.5, 1.0)], "p2 lost nothing on the EVEN samples"
    assert shown[0]["prompt"] == "prompt 1"
    assert shown[0]["candidates"]["new"] == [
        {"text": "new 1", "passed": False, "reward": 0.0},
        {"text": "new 3", "passed": False, "reward": 0.0},
    ]
    assert [each["passed"] for each in shown[0]["candidates"]["old"]] == [True, False]


def test_long_candidates_are_cut() -> None:
    models = {"old": [[1, 1], [1, 1]], "new": [[WRONG, WRONG], [1, 1]]}
    records = records_of(models, prompts=("x" * 3000, "y"))
    found = conditions(read(records), Compared("old", "old", (1,)))
    [worst] = with_candidates(found, SampleList(records), threshold=0.5)["worst"]["new"]
    assert worst["prompt"] == "x" * MAX_CHARS + CUT


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
    found = conditions(
        read(records_of({"start": classes, "same": classes})), Compared("start", "start", (1, 2, 4))
    )
    for condition in found["conditions"].values():
        for each in condition["models"].get("same", ()):
            assert [gain["value"] for gain in each["gains"].values()] == [0.0, 0.0, 0.0]
