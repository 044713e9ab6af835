"""The driver's side of a training run, with a coordinator that is a plain object; signals are real."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.exceptions
from rich.console import Console

from polyray.errors import EXIT_INTERRUPTED, RolloutError, Stopped
from polyray.launch import watch
from polyray.launch.watch import watch_training
from polyray.orchestrator.coordinator import RESTARTING
from polyray.runs.cost import CostMeter, Held, read_cost
from polyray.runs.jsonl import read_jsonl
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunPaths
from tests.unit.tiny_policy import train_config


class Coordinator:
    """Answers like the actor; `drained` is set when it is told to drain."""

    def __init__(self, incidents: list[dict[str, str]] | None = None) -> None:
        self.incidents = incidents or []
        self.drained = threading.Event()
        self.died: BaseException | None = None
        self.phase, self.tokens, self.step = "training", 0, 7
        self.alarms: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: getattr(self, f"_{name}")(*arguments))

    def _progress(self, seen: int) -> dict[str, Any]:
        if self.died is not None:
            raise self.died
        return {
            "phase": self.phase,
            "step": self.step,
            "tokens": self.tokens,
            "metrics": {},
            "alarms": self.alarms,
            "incidents": self.incidents[seen:],
        }

    def _drain(self) -> None:
        self.drained.set()

    def _failure(self) -> None:
        return None


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    monkeypatch.setattr(watch, "POLL_S", 0.01)


def run(
    tmp_path: Path,
    coordinator: Coordinator,
    fit: Callable[[dict[str, BaseException]], None],
    cost: CostMeter | None = None,
) -> str:
    """Output of `watch_training`."""
    stream = io.StringIO()
    directory: Any = SimpleNamespace(paths=RunPaths(tmp_path))
    with ProgressDisplay(console=Console(file=stream, width=200)) as display:
        watch_training(train_config(), directory, coordinator, fit, display, cost)
    return stream.getvalue()


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_the_run_and_restores_the_handler(number: signal.Signals, tmp_path: Path) -> None:
    coordinator, before = Coordinator(), signal.getsignal(number)

    def fit(outcome: dict[str, BaseException]) -> None:
        send(number)
        assert coordinator.drained.wait(10)

    with pytest.raises(Stopped, match=f"{number.name} after step 7 of ") as error:
        run(tmp_path, coordinator, fit)
    assert error.value.exit_code == EXIT_INTERRUPTED
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("phase", ["starting", "delivering", RESTARTING])
@pytest.mark.parametrize("draining", [False, True])
def test_signal_while_learner_starts_ends_run_at_once(phase: str, draining: bool, tmp_path: Path) -> None:
    """`draining`: the learner fails in the step that was to be the last."""
    coordinator, ended = Coordinator(), threading.Event()
    coordinator.phase = "training" if draining else phase

    def fit(outcome: dict[str, BaseException]) -> None:
        send(signal.SIGTERM)
        if draining:
            assert coordinator.drained.wait(10)
            coordinator.phase = phase
        ended.wait(10)

    with pytest.raises(Stopped, match=r"SIGTERM .*starting") as error:
        run(tmp_path, coordinator, fit)
    ended.set()
    assert coordinator.drained.is_set() == draining
    assert error.value.exit_code == EXIT_INTERRUPTED
    assert "checkpoint" in str(error.value)


@pytest.mark.parametrize("lines", [0, 2])
def test_signal_before_the_first_step_mentions_a_checkpoint_only_if_any(lines: int, tmp_path: Path) -> None:
    RunPaths(tmp_path).metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(lines)))
    coordinator, ended = Coordinator(), threading.Event()
    coordinator.phase, coordinator.step = "starting", 0

    def fit(outcome: dict[str, BaseException]) -> None:
        send(signal.SIGINT)
        ended.wait(10)

    with pytest.raises(Stopped, match=r"SIGINT .*starting") as error:
        run(tmp_path, coordinator, fit)
    ended.set()
    assert ("newest checkpoint" in str(error.value)) == (lines > 0)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    coordinator, ended = Coordinator(), threading.Event()

    def fit(outcome: dict[str, BaseException]) -> None:
        send(signal.SIGINT, signal.SIGTERM)
        ended.wait(10)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, coordinator, fit)
    ended.set()


def write_adapter(run: Path) -> None:
    """Write the adapter that a finished run leaves."""
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text("{}")


def test_run_drained_without_a_signal_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"step 7 of 6: .*checkpoint"):
        run(tmp_path, Coordinator(), lambda outcome: None)


def test_the_adapter_of_a_shorter_run_does_not_make_a_longer_one_finished(tmp_path: Path) -> None:
    coordinator = Coordinator()
    write_adapter(tmp_path)

    def fit(outcome: dict[str, BaseException]) -> None:
        send(signal.SIGTERM)
        assert coordinator.drained.wait(10)

    with pytest.raises(Stopped, match=r"SIGTERM .*step 7"):
        run(tmp_path, coordinator, fit)


def test_a_run_that_finished_anyway_is_finished(tmp_path: Path) -> None:
    coordinator = Coordinator()

    def fit(outcome: dict[str, BaseException]) -> None:
        send(signal.SIGTERM)
        assert coordinator.drained.wait(10)
        write_adapter(tmp_path)

    assert "SIGTERM: ending after this step" in run(tmp_path, coordinator, fit)


def test_incidents_and_alarms_are_shown_once(tmp_path: Path) -> None:
    incidents = [{"kind": "worker_replaced", "message": "a by b"}, {"kind": "unscored", "message": "group 3"}]
    coordinator = Coordinator(incidents[:1])
    coordinator.alarms.append("monitor one")

    def fit(outcome: dict[str, BaseException]) -> None:
        time.sleep(0.1)
        coordinator.incidents.append(incidents[1])
        coordinator.alarms.append("monitor two")
        write_adapter(tmp_path)

    shown = run(tmp_path, coordinator, fit)
    assert shown.count("worker_replaced: a by b") == shown.count("unscored: group 3") == 1
    assert shown.count("monitor one") == shown.count("monitor two") == 1
    lines = read_jsonl(tmp_path / "incidents.jsonl")
    assert [(line["kind"], line["message"], line["step"]) for line in lines] == [
        ("worker_replaced", "a by b", 7),
        ("unscored", "group 3", 7),
    ]


def test_incident_of_several_lines_shows_its_first_and_a_failure_is_left_to_the_end(tmp_path: Path) -> None:
    incidents = [
        {"kind": "unscored", "message": "group 3: KeyError\n  File one"},
        {"kind": "failure", "message": "no scores"},
    ]
    shown = run(tmp_path, Coordinator(incidents), lambda outcome: write_adapter(tmp_path))
    assert "unscored: group 3: KeyError" in shown
    assert "File one" not in shown and "no scores" not in shown
    lines = read_jsonl(tmp_path / "incidents.jsonl")
    assert [line["message"] for line in lines] == [incident["message"] for incident in incidents]


def test_lost_coordinator_ends_the_run_with_an_incident(tmp_path: Path) -> None:
    coordinator = Coordinator()
    coordinator.died = ray.exceptions.ActorDiedError()
    with pytest.raises(RolloutError, match=r"coordinator .*\(ActorDiedError\)"):
        run(tmp_path, coordinator, lambda outcome: time.sleep(0.05))
    assert [line["kind"] for line in read_jsonl(tmp_path / "incidents.jsonl")] == ["coordinator_lost"]


def test_error_of_training_is_raised_unchanged(tmp_path: Path) -> None:
    def fit(outcome: dict[str, BaseException]) -> None:
        outcome["error"] = ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(tmp_path, Coordinator(), fit)


def test_watch_counts_all_sampled_tokens(tmp_path: Path) -> None:
    coordinator = Coordinator()
    path = tmp_path / "cost.json"

    def fit(outcome: dict[str, BaseException]) -> None:
        coordinator.tokens = 120
        time.sleep(0.1)
        coordinator.tokens = 200
        write_adapter(tmp_path)

    with CostMeter(path, "train", Held(cpus=1.0)) as cost:
        run(tmp_path, coordinator, fit, cost)
    assert read_cost(path).tokens_generated == 200
