"""Output of a job without a terminal, and start and end of a live display."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from polyray.runs.progress import ProgressDisplay, format_seconds, headline


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_display(clock: Clock, interval_s: float = 5.0) -> tuple[ProgressDisplay, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=False, width=40, highlight=False)
    return ProgressDisplay(console=console, interval_s=interval_s, clock=clock), stream


def test_plain_display_writes_a_line_every_few_seconds_and_at_both_ends() -> None:
    clock = Clock()
    display, stream = plain_display(clock)
    with display:
        for step in range(11):
            display.update(phase="train", step=step, total=10, metrics={"reward_mean": step / 10})
            clock.now += 2.0
    assert stream.getvalue().splitlines() == [
        "train  0/10  elapsed 0:00  reward 0.000",
        "train  3/10  elapsed 0:06, left 0:14  reward 0.300",
        "train  6/10  elapsed 0:12, left 0:08  reward 0.600",
        "train  9/10  elapsed 0:18, left 0:02  reward 0.900",
        "train  10/10  elapsed 0:20, left 0:00  reward 1.000",
    ]


def test_time_left_after_a_resume_counts_only_steps_of_this_process() -> None:
    clock = Clock()
    display, stream = plain_display(clock, interval_s=0.0)
    with display:
        display.update(phase="train", step=90, total=100)
        clock.now = 10.0
        display.update(step=95)
    assert stream.getvalue().splitlines()[-1] == "train  95/100  elapsed 0:10, left 0:10"


def test_sections_and_inner_displays_write_into_the_outer_display() -> None:
    clock = Clock()
    outer, stream = plain_display(clock)
    inner, inner_stream = plain_display(clock)
    with outer:
        outer.section("pretrain", index=1, count=2)
        clock.now = 70.0
        outer.section("sft", index=2, count=2)
        with inner:
            inner.update(phase="learn", step=4, total=4)
            inner.note("adapter written")
        outer.note("all done")
    assert inner_stream.getvalue() == ""
    assert stream.getvalue().splitlines() == [
        "[1/2] pretrain  elapsed 0:00",
        "[1/2] pretrain: done in 1:10",
        "[2/2] sft  elapsed 0:00",
        "[2/2] sft learn  4/4  elapsed 0:00",
        "adapter written",
        "all done",
    ]


def test_live_display_shows_steps_metrics_and_notes_and_ends_after_an_error() -> None:
    for _ in range(2):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=120, color_system=None)
        with pytest.raises(RuntimeError), ProgressDisplay(console=console) as display:
            display.update(phase="train", step=3, total=7, metrics={"pass_at_8": 0.625})
            display.note("a note that stays")
            assert console._live_stack
            raise RuntimeError("job failed")
        assert not console._live_stack
        assert all(words in stream.getvalue() for words in ("3/7", "pass@8 0.625", "a note that stays"))


def test_table_of_a_live_display_stays_until_the_next_section() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, color_system=None)
    with ProgressDisplay(console=console) as display:
        display.section("trials", 1, 2)
        display.table(["trial", "value"], [["t000", "0.125"], ["t001", "0.500"]])
        console.print(display._render())
        with_rows = stream.getvalue()
        display.section("evaluation", 2, 2)
        stream.truncate(0)
        console.print(display._render())
    assert ["t000", "0.125"] in [line.split() for line in with_rows.splitlines()]
    assert "t001" not in stream.getvalue()


def test_headline_names_and_rounds_metrics() -> None:
    metrics = {"step": 3, "reward_mean": 0.41234, "pass_at_8": None, "tokens_generated": 2400, "step_s": 0.5}
    assert headline(metrics) == {"reward": "0.412", "tokens/s": "4,800"}
    assert headline({"tokens_generated": 10, "step_s": 0}) == {}
    assert [format_seconds(seconds) for seconds in (0, 59.6, 3599, 3661)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:01:01",
    ]
