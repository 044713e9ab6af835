"""Driver loop of every training: shows progress, writes incidents, ends the run on request.

SIGINT or SIGTERM: the step under way ends, a checkpoint is written, the run can be started again; a second one ends
everything at once. The first one does, too, while the learner starts or starts again: there is no step to wait for.
An RL training is watched through its coordinator, SFT and reward models through the files that they write.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.exceptions

from polyray.config.passes import has_passes
from polyray.config.run import TrainConfig
from polyray.errors import RolloutError, Stopped
from polyray.orchestrator.coordinator import RESTARTING
from polyray.runs.cost import CostMeter
from polyray.runs.jsonl import JsonlWriter, read_jsonl
from polyray.runs.logging import log_at
from polyray.runs.progress import Display
from polyray.runs.run_directory import RunDirectory, RunPaths
from polyray.runs.stop_request import StopRequest

POLL_S = 0.5
CALL_TIMEOUT_S = 120.0
"""A coordinator that does not answer for so long is lost; a machine that is busy may take a minute."""

STOPPING = "stopping after this step"
STARTING = ("starting", "delivering", RESTARTING)
"""Phases of a coordinator while no step is under way."""

Fit = Callable[[dict[str, BaseException]], None]
"""Trains to the end; what it raises goes into the dictionary as `error`."""


class Watched(Protocol):
    """A training as its driver sees it."""

    step: int
    """Steps so far, as far as `look` has seen."""

    @property
    def is_starting(self) -> bool:
        """Whether no step is under way that a stop could wait for."""
        ...

    def look(self) -> None:
        """Show how the training goes. Raises RolloutError if it can no longer be watched."""

    def drain(self, signal_name: str) -> None:
        """Have the training end after the step that is under way."""

    def failure(self) -> BaseException | None:
        """Error for which the learner was stopped; None if it ended by itself."""


def watch(fit: Fit, watched: Watched, result: Path, num_steps: int, display: Display) -> None:
    """Run `fit` in a thread and show how it goes until it ends. Raises what ended it, if something did.

    `result`: the file or directory that a training writes last, at its end.
    """
    outcome: dict[str, BaseException] = {}
    result_before = stamp_of(result)  # of the end that a longer run goes on from
    thread = threading.Thread(target=fit, args=(outcome,), name="ray-train", daemon=True)
    draining = False
    with received_signals() as received:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            watched.look()
            if received and watched.is_starting:
                raise stopped_at_start(received[0], watched.step)
            if received and not draining:
                draining = True
                display.note(draining_text(received[0]))
                watched.drain(received[0])
        watched.look()
        if (error := watched.failure() or outcome.get("error")) is not None:
            raise error
        if stamp_of(result) in (None, result_before):
            raise stopped(received[0] if received else None, watched.step, num_steps)


def watch_training(
    config: TrainConfig,
    directory: RunDirectory,
    coordinator: Any,
    fit: Fit,
    display: Display,
    cost: CostMeter | None = None,
) -> None:
    """Drive an RL training; `cost` gets the number of sampled tokens. Raises what ended the run, if something did."""
    result = directory.paths.adapter / "adapter_config.json"
    with JsonlWriter(directory.paths.incidents) as incidents:
        watched = _Coordinated(config, directory, coordinator, display, incidents, cost)
        watch(fit, watched, result, config.learner.steps, display)


def watch_workers(
    paths: RunPaths, fit: Fit, display: Display, *, phases: tuple[str, str], num_steps: int, result: Path
) -> int:
    """Drive a training without a coordinator (SFT, reward models); returns how many steps there are.

    `phases`: what is shown before the first step, and from then on. Raises what ended it, if something did.
    """
    with StopRequest(paths.root) as stop:
        watched = _Workers(paths, stop, display, phases, num_steps)
        watch(fit, watched, result, num_steps, display)
    return watched.step


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


class _Coordinated:
    """Asks the coordinator."""

    def __init__(
        self,
        config: TrainConfig,
        directory: RunDirectory,
        coordinator: Any,
        display: Display,
        incidents: JsonlWriter,
        cost: CostMeter | None,
    ) -> None:
        self._config = config
        self._metrics_file = directory.paths.metrics
        self._coordinator = coordinator
        self._display = display
        self._incidents = incidents
        self._cost = cost
        self._seen = 0
        self._alarms_seen = 0
        self._draining = False
        self.is_starting = True
        self.step = 0

    def look(self) -> None:
        """See `Watched`."""
        try:
            state: Any = ray.get(self._coordinator.progress.remote(self._seen), timeout=CALL_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            message = f"the coordinator of {self._config.name} is gone ({type(error).__name__})"
            self._incidents.write({"at": _now(), "kind": "coordinator_lost", "message": message})
            raise RolloutError(
                f"{message}; start the same command again: it goes on from the newest checkpoint"
            ) from error
        self.is_starting = state["phase"] in STARTING
        self.step = state["step"] or (len(read_jsonl(self._metrics_file)) if self.is_starting else 0)
        log_at(step=state["step"], version=state["step"])
        started = bool(state["metrics"]) or state["phase"] in ("training", "stopping")
        if self._cost is not None:
            self._cost.generated(state["tokens"])
        running = "training" if not self._draining else STOPPING
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
        for text in state["alarms"][self._alarms_seen :]:
            self._display.note(text)
        self._alarms_seen = len(state["alarms"])

    def drain(self, signal_name: str) -> None:
        """See `Watched`."""
        self._draining = True
        ray.get(self._coordinator.drain.remote(), timeout=CALL_TIMEOUT_S)

    def failure(self) -> BaseException | None:
        """See `Watched`."""
        failure: Any = ray.get(self._coordinator.failure.remote(), timeout=CALL_TIMEOUT_S)
        return failure


class _Workers:
    """Reads metrics.jsonl, and asks workers through a file in the run's directory (polyray/runs/stop_request.py)."""

    def __init__(
        self, paths: RunPaths, stop: StopRequest, display: Display, phases: tuple[str, str], num_steps: int
    ) -> None:
        self._metrics_file = paths.metrics
        self._stop = stop
        self._display = display
        self._phases = phases
        self._num_steps = num_steps
        self._log_before = stamp_of(paths.metrics)
        self._draining = False
        self.step = len(read_jsonl(paths.metrics))

    @property
    def is_starting(self) -> bool:
        """See `Watched`."""
        return not self._draining and stamp_of(self._metrics_file) == self._log_before

    def look(self) -> None:
        """See `Watched`."""
        lines = read_jsonl(self._metrics_file)
        self.step = len(lines)
        running = STOPPING if self._draining else self._phases[1]
        self._display.update(
            phase=running if lines else self._phases[0],
            step=len(lines) or None,
            total=self._num_steps,
            metrics=_latest(lines),
        )

    def drain(self, signal_name: str) -> None:
        """See `Watched`."""
        self._draining = True
        try:
            self._stop.ask(signal_name)
        except OSError as error:  # a full disk
            self._display.note(f"the workers could not be told ({error}); once more to end at once")

    def failure(self) -> None:
        """See `Watched`."""


def _latest(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last step's metrics, with the last validation loss, which not every step has."""
    if not lines:
        return None
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    return {"eval_loss": losses[-1] if losses else None, **lines[-1]}


def shown_metrics(config: TrainConfig, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics with the newest value of evaluation.best_metric as `validation`; pass@k where one can pass."""
    if not has_passes(config.reward, config.task):
        metrics = {name: value for name, value in metrics.items() if not name.startswith("pass_at_")}
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
