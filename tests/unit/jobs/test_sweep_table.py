"""The trials of a sweep on a terminal: those that run first, then the newest of those that ended."""

from __future__ import annotations

import io

from rich.console import Console

from polyray.runs.progress import ProgressDisplay
from polyray.sweeps.table import ROWS, TrialTable, reason_of


def test_running_trials_precede_ended_trials() -> None:
    now = 0.0
    display = ProgressDisplay(console=Console(file=io.StringIO(), force_terminal=False))
    table = TrialTable(display, "pass_at_8", 60, clock=lambda: now)
    for number in range(ROWS + 3):
        table.began(f"t{number:03d}", number % 2, {"algorithm.diversity_weight": 0.25})
        now += 1.0
    for number in (1, 0, 2):
        table.ended(f"t{number:03d}", "done")
    assert [row[0] for row in table.rows()] == [f"t{number:03d}" for number in range(3, ROWS + 3)]
    for number in range(5, ROWS + 3):
        table.ended(f"t{number:03d}", "stopped")
    table.reported("t004", 20, 0.4375)
    rows = table.rows()
    assert [row[0] for row in rows[:4]] == ["t003", "t004", f"t{ROWS + 2:03d}", f"t{ROWS + 1:03d}"]
    assert rows[1] == ["t004", "0", "diversity_weight=0.25", "runs", "20/60", "0.438", "0:23"]
    assert rows[2][3:] == ["stopped", "", "", "0:01"]


def test_a_trial_that_is_tried_again_begins_anew() -> None:
    display = ProgressDisplay(console=Console(file=io.StringIO(), force_terminal=False))
    table = TrialTable(display, "pass_at_8", 60, clock=lambda: 0.0)
    table.began("t000", 0, {})
    table.reported("t000", 20, 0.5)
    table.ended("t000", "failed")
    table.began("t000", 0, {})
    assert table.rows() == [["t000", "0", "", "runs", "", "", "0:00"]]


def test_reason_of_a_failure_is_its_message_without_traceback() -> None:
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "train.py", line 3, in run\n'
        "    raise ConfigError(\n"
        "polyray.errors.ConfigError: runs/t000 was started with another configuration:\n"
        "  seed: 99 -> 3\n"
        "give this run another name\n"
    )
    assert reason_of(traceback) == (
        "polyray.errors.ConfigError: runs/t000 was started with another configuration: seed: 99 -> 3 give this run "
        "another name"
    )
    assert reason_of("Killed") == "Killed"
    assert "process" in reason_of("")
