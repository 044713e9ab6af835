"""Lines of trials.jsonl, and which trials of a setting count."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.report.sweep.settings import group_trials
from polyray.report.sweep.trials import trial_line, write_trials
from tests.unit.report.sweep_fixtures import AXIS, read_trials, trial


def test_written_trials_are_read_back_and_nan_becomes_null(tmp_path: Path) -> None:
    trials = [
        trial("t0", 0.5, 1, others={"learner.lr": 1e-4, "task.kind": "né"}, metric=0.25, tokens=7),
        trial("t1", 0.0, status="failed", error="CUDA\nout of memory", steps=3, gpu_hours=0.5),
    ]
    write_trials(tmp_path / "trials.jsonl", trials)
    assert read_trials(tmp_path / "trials.jsonl") == trials
    assert json.loads(trial_line(trial("t0", 0.5, metric=math.nan)))["metric"] is None
    with pytest.raises(DataError, match=r"core_hours=nan of trial t0"):
        trial_line(trial("t0", 0.5, core_hours=math.nan))


FAILED = {"status": "failed", "error": "OOM", "steps": 7}
STOPPED = {"status": "stopped", "steps": 9}
NOT_ALL = "not every seed of its setting was evaluated"


def counted(trials, evaluated):
    grouped = group_trials(trials, evaluated, AXIS)
    members = {s.label: [t.trial_id for t in s.members] for s in grouped.settings}
    return members, dict(grouped.left_out)


def test_settings_are_sorted_by_value_and_split_by_other_parameters() -> None:
    trials = [
        trial("a", 1.0, others={"learner.lr": 1e-4}),
        trial("b", 0.5, 1, others={"learner.lr": 1e-4}),
        trial("c", 0.5, 0, others={"learner.lr": 1e-4}),
        trial("d", 0.5, 0, others={"learner.lr": 1e-3}),
    ]
    grouped = group_trials(trials, "abcd", AXIS)
    labels = ["λ = 0.5, lr = 0.0001", "λ = 0.5, lr = 0.001", "λ = 1, lr = 0.0001"]
    assert [s.label for s in grouped.settings] == labels
    assert [t.trial_id for t in grouped.settings[0].members] == ["c", "b"]
    first, other, last = (s.block for s in grouped.settings)
    assert first == last != other
    assert not grouped.left_out and all(s.is_complete for s in grouped.settings)


def test_settings_with_alike_labels_stay_apart_and_equal_numbers_are_one_setting() -> None:
    ranks = {"learner.rank": 1, "model.rank": 2}
    trials = [trial("a", 0.12345671, others=ranks), trial("b", 0.12345672, others=ranks)]
    label = "λ = 0.123457, learner.rank = 1, model.rank = 2"
    assert [s.label for s in group_trials(trials, "ab", AXIS).settings] == [label, f"{label} (b)"]
    members, _ = counted([trial("a", 1, 0, others={"x.n": 2}), trial("b", 1.0, 1, others={"x.n": 2.0})], "ab")
    assert list(members.values()) == [["a", "b"]]


@pytest.mark.parametrize(
    ("second", "evaluated", "members", "reason"),
    [
        (FAILED, ["a"], ["a"], "failed after 7 steps: OOM; it was not evaluated"),
        (
            FAILED | {"error": None},
            ["a"],
            ["a"],
            "failed after 7 steps: no reason is known; it was not evaluated",
        ),
        (STOPPED, ["a"], ["a"], "stopped by the scheduler after 9 steps; it was not evaluated"),
        (STOPPED, ["a", "b"], ["a", "b"], None),
        (STOPPED, ["b"], [], f"stopped by the scheduler after 9 steps; {NOT_ALL}"),
        ({}, ["a"], ["a"], "finished; it was not evaluated"),
    ],
)
def test_unfinished_trial_counts_only_if_all_seeds_were_evaluated(second, evaluated, members, reason) -> None:
    found, left_out = counted([trial("a", 1.0, 0), trial("b", 1.0, 1, **second)], evaluated)
    assert found == {"λ = 1": members}
    assert left_out.get("b") == reason
    complete = group_trials([trial("a", 1.0, 0), trial("b", 1.0, 1, **second)], evaluated, AXIS)
    assert complete.settings[0].is_complete == (members == ["a", "b"])


def test_group_trials_cuts_long_errors_and_counts_a_repeated_seed_once() -> None:
    _, left_out = counted([trial("a", 1.0, status="failed", error="Trace\n" * 200)], [])
    assert left_out["a"] == f"failed after 60 steps: {('Trace ' * 50)[:299]}…; it was not evaluated"
    found, left_out = counted([trial("a", 1.0, 3, status="stopped"), trial("b", 1.0, 3)], ["a", "b"])
    assert found == {"λ = 1": ["b"]}
    assert left_out == {"a": "the same setting and seed as b, which counts for both"}


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([], "no trials"),
        ([trial("a", 1.0), trial("a", 2.0)], "trial a .*twice"),
        ([trial("a", "big")], r"algorithm.diversity_weight='big' .*trial a"),  # pyright: ignore
        ([trial("a", math.inf)], r"algorithm.diversity_weight=inf .*trial a"),
        ([trial("a", True)], r"algorithm.diversity_weight=True .*trial a"),
    ],
)
def test_group_trials_refuses_bad_trials(trials, message) -> None:
    with pytest.raises(DataError, match=message):
        group_trials(trials, (), AXIS)
