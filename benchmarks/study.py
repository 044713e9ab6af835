"""Keeps what a sweep over algorithms found in docs/results/NAME.json, and writes docs/results.md from these files.

    python -m benchmarks.study rates configs/study/grid_rates.yaml   after polyray sweep with the same file
    python -m benchmarks.study keep configs/study/grid.yaml          after polyray sweep with the same file
    python -m benchmarks.study page                                  tables, tests and figures, also of README.md

`rates` keeps the last validation of each arm and learning rate, and shows the best rates. Arms that the sweep lacks
stay in the file. `keep` adds the trials of a sweep to those that the file has, so seeds may be run on different days.
It stores every held-out prompt, so all statistics are computed from the file.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study_file import AT_K, DISTINCT, RESULTS, SFT_ONLY, USQ, Study, best_rates
from benchmarks.study_page import write_pages
from polyray.cli.arguments import JobParser, run
from polyray.config.loader import load_config
from polyray.config.run import WARM_START
from polyray.config.sweep import ARM, SweepConfig
from polyray.errors import DataError
from polyray.report.run_data import read_json
from polyray.report.sweep.trials import Trial
from polyray.report.sweep.values import metric_key, read_values
from polyray.runs.jsonl import read_jsonl

RATE = "learner.learning_rate"
LAST_STEPS = 10
"""Steps whose mean entropy counts as the entropy at the end."""


def study_of(config: SweepConfig, arguments: str) -> Study:
    """Read a finished sweep, started with these arguments.

    Raises DataError where it has no evaluation, or samples are missing.
    """
    root = Path(config.run_dir)
    trials = [Trial(**line) for line in read_jsonl(root / "trials.jsonl") if line["status"] == "done"]
    evaluation = root / "evaluation" / "evaluation"
    values = read_values(evaluation, [WARM_START, *(trial.trial_id for trial in trials)], [1, AT_K])
    num_samples = int(values.metrics["n_samples"])
    rows: list[dict[str, Any]] = []
    for name, trial in ((WARM_START, None), *((trial.trial_id, trial) for trial in trials)):
        table = values.tables[name]
        if (table.num_scored_P != num_samples).any():
            raise DataError(f"{name} has prompts with fewer than {num_samples} scored samples")
        rows.append(
            {
                **(
                    {"arm": SFT_ONLY, "seed": None}
                    if trial is None
                    else _of_trial(trial, root / "trials" / name)
                ),
                "command": f"polyray sweep {arguments}",
                "correct": table.num_correct_P.tolist(),
                **{
                    metric: np.round(table.values[metric_key(metric)], 3).tolist()
                    for metric in (DISTINCT, USQ)
                },
            }
        )
    first = read_json(root / "trials" / trials[0].trial_id / "config.json")
    setup = {
        "reference": config.baseline,
        "task": first["task"],
        "steps": first["learner"]["steps"],
        "completions_per_step": first["rollout"]["prompts_per_step"] * first["rollout"]["group_size"],
        "num_samples": num_samples,
        "selector": values.metrics["selector"],
        "dataset_sha256": values.metrics["dataset_sha256"],
    }
    return Study(setup, list(values.clusters), rows)


def rates_of(config: SweepConfig) -> list[dict[str, Any]]:
    """The last validation of each trial that came to its end, of a sweep over arms and learning rates."""
    root = Path(config.run_dir)
    rows = []
    for line in read_jsonl(root / "trials.jsonl"):
        if line["status"] != "done":
            continue
        last = read_jsonl(root / "trials" / line["trial_id"] / "dynamics.jsonl")[-1]
        about = {
            "arm": line["parameters"][ARM],
            "learning_rate": line["parameters"][RATE],
            "seed": line["seed"],
        }
        rows.append(
            about | {name: round(last[name], 4) for name in ("pass_at_1", f"pass_at_{AT_K}", DISTINCT)}
        )
    return rows


def other_arms(rows: Sequence[dict[str, Any]], searched: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of arms that `searched` has no row of."""
    arms = {row["arm"] for row in searched}
    return [row for row in rows if row["arm"] not in arms]


def _of_trial(trial: Trial, directory: Path) -> dict[str, Any]:
    steps = read_jsonl(directory / "metrics.jsonl")
    return {
        "arm": trial.parameters[ARM],
        "seed": trial.seed,
        "learning_rate": read_json(directory / "config.json")["learner"]["learning_rate"],
        "entropy": round(float(np.mean([line["entropy"] for line in steps[-LAST_STEPS:]])), 4),
        "minutes": round(trial.seconds / 60, 2),
        "core_hours": round(trial.core_hours, 4),
        "date": datetime.now(UTC).date().isoformat(),
        "revision": _revision(),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
    }


def _revision() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks.study", __doc__)
    parser.add_argument("action", choices=["rates", "keep", "page"])
    parser.add_argument("config", nargs="?", help="file of the sweep, for rates and keep")
    parser.add_argument("overrides", nargs="*", help="key=value of that sweep")
    arguments = parser.parse_strictly(list(sys.argv[1:] if argv is None else argv))
    if arguments.action == "page":
        write_pages()
        return 0
    if arguments.config is None:
        return parser.error(f"{arguments.action} needs the file of a sweep")
    config = load_config(SweepConfig, arguments.config, arguments.overrides)
    file = RESULTS / f"{config.name.removeprefix('study-')}.json"
    if arguments.action == "rates":
        rows = rates_of(config)
        if file.is_file():
            rows = other_arms(json.loads(file.read_text(encoding="utf-8")), rows) + rows
        file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
        print(json.dumps(best_rates(rows), indent=1))
        return 0
    study = study_of(config, shlex.join([arguments.config, *arguments.overrides]))
    if file.is_file():
        study = Study.read(file).with_trials(study)
    study.write(file)
    print(file)
    return 0


if __name__ == "__main__":
    run(main)
