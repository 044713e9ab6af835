"""State of every run, and the command to run it again. From the files of each run alone.

A run with DONE is finished. Without that file a killed run cannot be told from one that still runs, and neither is
reported as a result. Called by report.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyray.report.run_data import Evaluation, ReportData, TrainingRun

WARM_START, RL, EVALUATION = "warm start", "RL", "evaluation"


@dataclass(frozen=True, slots=True)
class RunState:
    """One line of the table of runs.

    Example:
        RunState("drgrpo-seed1", "RL", 1, "40 of 60 steps", "not finished: killed, or still running", is_done=False)
    """

    name: str
    kind: str
    seed: int | None
    extent: str
    state: str
    is_done: bool


def run_states(data: ReportData) -> list[RunState]:
    """Every run that was read, in the order it was found; what left no numbers is in data.unfinished."""
    return [
        *(
            RunState(
                run.name,
                WARM_START if run.is_supervised else RL,
                run.config.get("seed"),
                steps_text(run),
                state_text(run),
                bool(run.done),
            )
            for run in data.training
        ),
        *(
            RunState(entry.name, EVALUATION, entry.seed, _evaluated_text(entry), "finished", True)
            for entry in data.evaluations
        ),
    ]


def steps_taken(run: TrainingRun) -> int:
    """Completed steps: the last line's number counts from 0."""
    return int(run.rows[-1]["step"]) + 1 if run.rows else 0


def steps_wanted(run: TrainingRun) -> int | None:
    """Planned steps; None if the configuration does not say: epochs, or no config.json."""
    if run.done.get("steps"):
        return int(run.done["steps"])
    if run.config.get("epochs") is not None:
        return None
    return (run.config.get("learner") or {}).get("steps")


def steps_text(run: TrainingRun) -> str:
    """40 of 60 steps"""
    wanted = steps_wanted(run)
    return f"{steps_taken(run)} steps" if wanted is None else f"{steps_taken(run)} of {wanted} steps"


def state_text(run: TrainingRun) -> str:
    """finished; else that it is not, with the last incident that it wrote down."""
    if run.done:
        return "finished"
    if not run.incidents:
        return "not finished: it was stopped, or is still running (no DONE)"
    last = run.incidents[-1]
    return f"not finished (no DONE); its last incident: {last.get('kind', '')}: {last.get('message', '')}"


def commands(data: ReportData) -> list[str]:
    """Commands that run everything again under other names, warm starts first; runs without a configuration are
    left out.
    """
    ordered = sorted(data.training, key=lambda run: not run.is_supervised)
    jobs = [("sft" if run.is_supervised else "train", run) for run in ordered if run.config]
    jobs += [("evaluate", entry) for entry in data.evaluations if entry.config]
    return [
        f"polyray {job} {shlex.quote(str(entry.path / 'config.json'))} "
        f"name={shlex.quote(f'{entry.name}-again')}"
        for job, entry in jobs
    ]


@dataclass(frozen=True, slots=True)
class AdapterHash:
    """Identity of the final weights of a run.

    Example:
        AdapterHash("drgrpo-seed0", "a7cf0661...", "52305e2b...", "runs/quickstart/sft-seed0/adapter")
    """

    run: str
    adapter_sha256: str
    base_sha256: str
    began_from: str


def adapter_hashes(runs: Sequence[TrainingRun]) -> list[AdapterHash]:
    """Hashes of the runs with a manifest of their final adapter."""
    return [
        AdapterHash(
            run.name,
            str(run.manifest.get("adapter_sha256", "")),
            str(run.manifest.get("base_sha256", "")),
            _began_from(run.config),
        )
        for run in runs
        if run.manifest
    ]


def _began_from(config: Mapping[str, Any]) -> str:
    model = config.get("model") or {}
    return str(model.get("warm_start") or f"a fresh adapter on {model.get('path', 'the base')}")


def _evaluated_text(entry: Evaluation) -> str:
    metrics = entry.metrics
    return f"{len(metrics['models'])} models, {metrics['n_problems']} prompts, {metrics['n_samples']} samples each"
