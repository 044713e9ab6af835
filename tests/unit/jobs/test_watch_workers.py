"""The driver's side of SFT and of reward models, with workers that are a thread; signals are real."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from polyray.errors import EXIT_INTERRUPTED, Stopped
from polyray.launch import watch
from polyray.runs.jsonl import JsonlWriter
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunPaths
from polyray.runs.stop_request import is_stop_requested

DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.01)


def run(run_dir: Path, fit: Callable[[dict[str, BaseException]], None]) -> tuple[int, str]:
    """Number of steps, and the output."""
    stream, paths = io.StringIO(), RunPaths(run_dir)
    with ProgressDisplay(console=Console(file=stream, width=200)) as display:
        steps = watch.watch_workers(
            paths, fit, display, phases=("starting", "training"), num_steps=10, result=paths.adapter
        )
    return steps, stream.getvalue()


def step(run_dir: Path, number: int) -> None:
    with JsonlWriter(run_dir / "metrics.jsonl") as writer:
        writer.write({"step": number, "loss": 1.0})


def asked(run_dir: Path) -> bool:
    """Whether the request arrives within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_stop_requested(run_dir) and time.monotonic() < deadline:
        time.sleep(0.005)
    return is_stop_requested(run_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("finished_before", [False, True])
def test_signal_asks_the_workers_and_restores_the_handler(
    number: signal.Signals, finished_before: bool, tmp_path: Path
) -> None:
    """`finished_before`: the adapter of a shorter run does not make a longer one finished."""
    before = signal.getsignal(number)
    if finished_before:
        (tmp_path / "adapter").mkdir()

    def fit(outcome: dict[str, BaseException]) -> None:
        step(tmp_path, 0)
        os.kill(os.getpid(), number)
        assert asked(tmp_path)
        step(tmp_path, 1)

    message = f"^{number.name} after step 2 of 10: .*checkpoint"
    with pytest.raises(Stopped, match=message) as error:
        run(tmp_path, fit)
    assert error.value.exit_code == EXIT_INTERRUPTED
    assert signal.getsignal(number) is before
    assert not (tmp_path / ".stop").exists()


@pytest.mark.parametrize("lines_before", [0, 2])
def test_signal_before_first_step_of_this_start_ends_at_once(lines_before: int, tmp_path: Path) -> None:
    for number in range(lines_before):
        step(tmp_path, number)
    ended = threading.Event()

    def fit(outcome: dict[str, BaseException]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait(DEADLINE_S)

    with pytest.raises(Stopped, match=r"SIGTERM .*starting") as error:
        run(tmp_path, fit)
    ended.set()
    assert ("newest checkpoint" in str(error.value)) == (lines_before > 0)
    assert not (tmp_path / ".stop").exists()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    ended = threading.Event()

    def fit(outcome: dict[str, BaseException]) -> None:
        step(tmp_path, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait(DEADLINE_S)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fit)
    ended.set()


def test_a_run_that_finished_anyway_is_finished(tmp_path: Path) -> None:
    def fit(outcome: dict[str, BaseException]) -> None:
        for number in range(10):
            step(tmp_path, number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(tmp_path)
        (tmp_path / "adapter").mkdir()

    steps, shown = run(tmp_path, fit)
    assert steps == 10
    assert "SIGTERM: " in shown


def test_error_of_training_is_raised_unchanged(tmp_path: Path) -> None:
    def fit(outcome: dict[str, BaseException]) -> None:
        outcome["error"] = ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(tmp_path, fit)
