"""The file of a study in docs/results: what every trial did on every held-out prompt (no script).

Written by study.py, read by it and by study_page.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyray.errors import DataError
from polyray.metrics.arrays import Floats
from polyray.metrics.pass_at_k import pass_at_k

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SFT_ONLY = "SFT only"
"""Name of the warm start among the arms."""
AT_K = 8
"""Size of the set that distinct correct answers and USQ are of."""
DISTINCT, USQ = f"distinct_correct_at_{AT_K}", f"usq_at_{AT_K}"


@dataclass(frozen=True)
class Study:
    """The file of one study.

    Example:
        Study(setup={"reference": "polychromic", "num_samples": 32, ...}, clusters=["b1>e4", ...],
              trials=[{"arm": "polychromic", "seed": 0, "correct": [3, 0, ...], "usq_at_8": [...], ...}])
    """

    setup: dict[str, Any]
    clusters: list[str]
    """[P] of the prompts."""
    trials: list[dict[str, Any]]

    @classmethod
    def read(cls, file: Path) -> Study:
        """The study in a file that `write` wrote."""
        values = json.loads(file.read_text(encoding="utf-8"))
        return cls(values["setup"], values["clusters"], values["trials"])

    def write(self, file: Path) -> None:
        """One line for each trial."""
        rows = ",\n".join(
            json.dumps(trial, ensure_ascii=False, separators=(",", ":")) for trial in self.trials
        )
        head = json.dumps(self.setup, ensure_ascii=False, indent=1)
        clusters = json.dumps(self.clusters, ensure_ascii=False, separators=(",", ":"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f'{{"setup": {head},\n"clusters": {clusters},\n"trials": [\n{rows}\n]}}\n', encoding="utf-8"
        )

    def with_trials(self, newer: Study) -> Study:
        """The trials of both, the newer ones where both have one. Raises DataError where they do not fit together."""
        for name in ("task", "num_samples", "dataset_sha256", "selector", "steps", "completions_per_step"):
            if self.setup[name] != newer.setup[name]:
                raise DataError(
                    f"the trials that are kept have {name}={self.setup[name]!r}, these {newer.setup[name]!r}; they "
                    "are no one study. Remove the file to begin it anew"
                )
        trials = {(trial["arm"], trial["seed"]): trial for trial in (*self.trials, *newer.trials)}
        rates: dict[str, float] = {}
        for (arm, seed), trial in trials.items():
            if seed is not None and rates.setdefault(arm, trial["learning_rate"]) != trial["learning_rate"]:
                raise DataError(
                    f"{arm} would have trials with rates of {rates[arm]:g} and {trial['learning_rate']:g}; run "
                    "its seeds again at one rate"
                )
        arms = list(dict.fromkeys(trial["arm"] for trial in (*self.trials, *newer.trials)))
        order = sorted(trials, key=lambda key: (arms.index(key[0]), -1 if key[1] is None else key[1]))
        return Study(self.setup, self.clusters, [trials[key] for key in order])

    @property
    def arms(self) -> dict[str, list[dict[str, Any]]]:
        """arm -> its trials, one per seed."""
        arms: dict[str, list[dict[str, Any]]] = {}
        for trial in self.trials:
            arms.setdefault(trial["arm"], []).append(trial)
        return arms

    def matrices(self, metric: str) -> dict[str, Floats]:
        """arm -> [S, P] values of a metric: pass_at_K with any K up to `num_samples`, or one that is stored."""
        return {
            arm: np.stack([self._values(trial, metric) for trial in trials])
            for arm, trials in self.arms.items()
        }

    def _values(self, trial: Mapping[str, Any], metric: str) -> Floats:
        if metric.startswith("pass_at_"):
            k = int(metric.removeprefix("pass_at_"))
            return np.asarray(
                pass_at_k(np.full(len(self.clusters), self.setup["num_samples"]), trial["correct"], k)
            )
        return np.array(trial[metric], dtype=np.float64)


def rates_tried(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, dict[str, float]]]:
    """arm -> learning rate -> metric -> its mean over the seeds of the search."""
    tried: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    for row in rows:
        tried.setdefault(row["arm"], {}).setdefault(row["learning_rate"], []).append(row)
    metrics = "pass_at_1", f"pass_at_{AT_K}", DISTINCT
    return {
        arm: {
            rate: {metric: float(np.mean([row[metric] for row in seeds])) for metric in metrics}
            for rate, seeds in rates.items()
        }
        for arm, rates in tried.items()
    }


def best_rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """arm -> the learning rate with the highest pass@1 + pass@8."""
    return {
        arm: max(rates, key=lambda rate: rates[rate]["pass_at_1"] + rates[rate][f"pass_at_{AT_K}"])
        for arm, rates in rates_tried(rows).items()
    }
