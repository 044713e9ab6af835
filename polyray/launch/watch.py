"""Driver loop of a training run: shows progress, writes incidents, ends the run on request.

SIGINT or SIGTERM: the step under way ends, a checkpoint is written, the run can be started again; a second one ends
everything at once. The first one does, too, while the learner starts or starts again: there is no step to wait for.
Not a job itself; called by polyray train, and in part by polyray/launch/watch_workers.py.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from polyray.config.dynamics import COLLAPSED, collapse_text
from polyray.config.mismatch import mismatch_text
from polyray.config.over_optimisation import alarm_text
from polyray.config.run import TrainConfig
from polyray.errors import RolloutError, Stopped
from polyray.orchestrator.coordinator import RESTARTING
from polyray.runs.cost import CostMeter
from polyray.runs.jsonl import JsonlWriter, read_jsonl
from polyray.runs.logging import log_at
from polyray.runs.progress import Display
from polyray.runs.run_directory import RunDirectory

POLL_S = 0.5
CALL_TIMEOUT_S = 120.0
"""A coordinator that does not answer for so long is lost; a machine that is busy may take a minute."""

STARTING = ("starting", "delivering", RESTARTING)
"""Phases of a coordinator while no step is under way."""

Fit = Callable[[dict[str, BaseException]], None]
"""Trains to the end; what it raises goes into the dictionary as `error`."""


def watch_training(
    config: TrainConfig,
    directory: RunDirectory,
    coordinator: Any,
    fit: Fit,
    display: Display,
    cost: CostMeter | None = None,
) -> None:
    """Runs `fit` in a thread and shows how it goes until it ends. Raises what ended the run, if something did.
    `cost` gets the number of sampled tokens.
    """
    outcome: dict[str, BaseException] = {}
    result = directory.paths.adapter / "adapter_config.json"  # the last thing that a run writes
    result_before = stamp_of(result)  # of the end that a longer run goes on from
    thread = threading.Thread(target=fit, args=(outcome,), name="ray-train", daemon=True)
    with JsonlWriter(directory.paths.incidents) as incidents, received_signals() as received:
        watch = _Watch(config, coordinator, display, incidents, cost)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            watch.look()
            if received and watch.learner_starts:
                raise stopped_at_start(received[0], watch.step or len(read_jsonl(directory.paths.metrics)))
            if received and not watch.draining:
                watch.drain(received[0])
        watch.look()
        failure: Any = ray.get(coordinator.failure.remote(), timeout=CALL_TIMEOUT_S)
        if failure is not None:
            raise failure
        if "error" in outcome:
            raise outcome["error"]
        if stamp_of(result) in (None, result_before):
            raise stopped(received[0] if received else None, watch.step, config.learner.steps)


def stamp_of(result: Path) -> tuple[int, int] | None:
    """Changes when the file or directory is written anew; None: there is none."""
    try:
        status = result.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def draining_text(name: str) -> str:
    """Message after the first signal."""
    return f"{name}: ending after this step, with a checkpoint; once more to end at once"


def stopped(signal_name: str | None, step: int, num_steps: int) -> Stopped:
    """Error that ends a run early; `signal_name` is None if no signal asked for it."""
    why = signal_name or "asked to end"
    if step == 0:
        return Stopped(f"{why} before the first step of {num_steps}; start the same command again")
    return Stopped(
        f"{why} after step {step} of {num_steps}: a checkpoint is written; start the same command again to go on"
    )


def stopped_at_start(signal_name: str, step: int) -> Stopped:
    """Ends a run whose learner has no step under way; `step` counts those that other starts completed."""
    again = "start the same command again" + (" to go on from the newest checkpoint" if step else "")
    return Stopped(f"{signal_name} while the learner was starting: ended at once; {again}")


class _Watch:
    def __init__(
        self,
        config: TrainConfig,
        coordinator: Any,
        display: Display,
        incidents: JsonlWriter,
        cost: CostMeter | None,
    ) -> None:
        self._config = config
        self._coordinator = coordinator
        self._display = display
        self._incidents = incidents
        self._cost = cost
        self._seen = 0
        self._alarms_shown: set[str] = set()
        self.draining = False
        self.learner_starts = True
        self.step = 0

    def look(self) -> None:
        """Asks the coordinator how it goes. Raises RolloutError where it is gone."""
        try:
            state: Any = ray.get(self._coordinator.progress.remote(self._seen), timeout=CALL_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            message = f"the coordinator of {self._config.name} is gone ({type(error).__name__})"
            self._incidents.write({"at": _now(), "kind": "coordinator_lost", "message": message})
            raise RolloutError(
                f"{message}; start the same command again: it goes on from the newest checkpoint"
            ) from error
        self.step = state["step"]
        self.learner_starts = state["phase"] in STARTING
        log_at(step=self.step, version=self.step)
        started = bool(state["metrics"]) or state["phase"] in ("training", "stopping")
        if self._cost is not None:
            self._cost.generated(state["tokens"])
        running = "training" if not self.draining else "stopping after this step"
        running = state["phase"] if state["phase"] == RESTARTING else running
        self._display.update(
            phase=running if started else "starting the learner and the engines",
            step=state["step"] if started else None,
            total=self._config.learner.steps,
            metrics=shown_metrics(self._config, state["metrics"]),
        )
        for incident in state["incidents"]:
            self._incidents.write({"at": _now(), "step": state["step"], **incident})
            if incident["kind"] != "failure":  # the job ends with it
                self._display.note(f"{incident['kind']}: {incident['message'].splitlines()[0]}")
        self._seen += len(state["incidents"])
        show_alarms(self._config, state, self._alarms_shown, self._display)

    def drain(self, name: str) -> None:
        """Has the run end after the step that is under way."""
        self.draining = True
        self._display.note(draining_text(name))
        ray.get(self._coordinator.drain.remote(), timeout=CALL_TIMEOUT_S)


def show_alarms(config: TrainConfig, state: Mapping[str, Any], shown: set[str], display: Display) -> None:
    """Says each alarm once, with what to do; metrics.jsonl has every step of it."""
    texts: list[str] = []
    if state["alarms"] and config.over_optimisation is not None:
        texts.append(alarm_text(config.over_optimisation))
    collapse = None if config.dynamics is None else config.dynamics.collapse_alarm
    if collapse is not None and state["metrics"].get(COLLAPSED):
        texts.append(collapse_text(collapse))
    if state["metrics"].get("mismatch_alarms") and config.mismatch_alarm is not None:
        texts.append(mismatch_text(config.mismatch_alarm))
    for text in texts:
        if text not in shown:
            shown.add(text)
            display.note(text)


def shown_metrics(config: TrainConfig, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics with the newest value of evaluation.best_metric as `validation`."""
    if config.evaluation is None:
        return dict(metrics)
    return {**metrics, "validation": metrics.get(f"validation/{config.evaluation.best_metric}")}


@contextmanager
def received_signals() -> Iterator[list[str]]:
    """Collects the names of SIGINT and SIGTERM as they come; the second one raises KeyboardInterrupt.

    Only the main thread of a process may say what a signal does: elsewhere nothing changes.
    """
    received: list[str] = []

    def on_signal(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> str:
    """UTC, for people; nothing is decided by it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
