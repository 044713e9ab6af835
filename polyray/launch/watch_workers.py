"""Driver loop of a training without a coordinator: shows progress, ends the run on request.

As jobs/watch.py does it for RL, with the same words: its workers are asked through a file in the run's directory
(polyray/runs/stop_request.py). Not a job itself; called by polyray sft and polyray train_reward.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.launch.watch import Fit, draining_text, received_signals, stamp_of, stopped, stopped_at_start
from polyray.runs.jsonl import read_jsonl
from polyray.runs.progress import Display
from polyray.runs.run_directory import RunPaths
from polyray.runs.stop_request import StopRequest

POLL_S = 0.5


def watch_workers(
    paths: RunPaths, fit: Fit, display: Display, *, phases: tuple[str, str], num_steps: int, result: Path
) -> int:
    """Runs `fit` in a thread and shows how it goes until it ends; returns how many steps there are.

    `phases`: what is shown before the first step, and from then on. `result`: what the run writes when it comes to
    its end. Raises what ended it before, if something did.
    """
    outcome: dict[str, BaseException] = {}
    result_before = stamp_of(result)  # of the end that a longer run goes on from
    log_before = stamp_of(paths.metrics)
    thread = threading.Thread(target=fit, args=(outcome,), name="ray-train", daemon=True)
    draining = False
    with StopRequest(paths.root) as stop, received_signals() as received:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            if received and not draining and stamp_of(paths.metrics) == log_before:
                raise stopped_at_start(received[0], len(read_jsonl(paths.metrics)))
            if received and not draining:
                draining = True
                display.note(draining_text(received[0]))
                _ask(stop, received[0], display)
            lines = read_jsonl(paths.metrics)
            running = "stopping after this step" if draining else phases[1]
            display.update(
                phase=running if lines else phases[0],
                step=len(lines) or None,
                total=num_steps,
                metrics=_latest(lines),
            )
    if "error" in outcome:
        raise outcome["error"]
    steps = len(read_jsonl(paths.metrics))
    if stamp_of(result) in (None, result_before):
        raise stopped(received[0] if received else None, steps, num_steps)
    return steps


def _ask(stop: StopRequest, why: str, display: Display) -> None:
    try:
        stop.ask(why)
    except OSError as error:  # a full disk
        display.note(f"the workers could not be told ({error}); once more to end at once")


def _latest(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last step's metrics, with the last validation loss, which not every step has."""
    if not lines:
        return None
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    return {"eval_loss": losses[-1] if losses else None, **lines[-1]}
