"""Arms of a report: their runs and evaluated models, and one colour for each.

An arm is one recipe, possibly with several seeds: training runs `drgrpo-seed0`, `drgrpo-seed1` and the
evaluated model "Dr.GRPO" with an adapter from one of them. Called by report.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyray.report.run_data import Evaluation, ReportData, TrainingRun

WARM_START_COLOUR = "#7a7f87"
PALETTE = ("#d55e00", "#8e6bbf", "#0072b2", "#009e73", "#a88600", "#3391c8", "#c2387a")
"""Colour-blind safe, after Okabe and Ito: vermilion, violet, blue, green, ochre, sky blue, purple; each has a
contrast of at least 3 to 1 on white and on the dark page. Dashes and symbols tell them apart, too."""
DASHES = ("solid", "dash", "solid", "dashdot", "dot", "longdash", "solid")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")

_SEED_SUFFIX = re.compile(r"-seed\d+$")


@dataclass
class Arm:
    """One recipe: its label, its look, its training runs.

    Example:
        Arm(key="drgrpo", label="Dr.GRPO", colour="#d55e00", dash="solid", symbol="circle",
        runs=[TrainingRun(...)])
    """

    key: str
    label: str
    colour: str = WARM_START_COLOUR
    dash: str = "dot"
    symbol: str = "circle-open"
    runs: list[TrainingRun] = field(default_factory=list)
    evaluated: bool = False
    is_warm_start: bool = False

    @property
    def algorithm(self) -> dict[str, Any]:
        """The RL objective's configuration; empty for a warm start or where there is no configuration."""
        return self.runs[0].config.get("algorithm", {}) if self.runs else {}

    @property
    def is_set_objective(self) -> bool:
        """True for arms that are paid for the set and not for each completion alone."""
        return self.algorithm.get("type") == "polychromic"

    @property
    def has_kl_penalty(self) -> bool:
        """True for GRPO held to the warm start."""
        return self.algorithm.get("type") == "grpo" and float(self.algorithm.get("kl_coefficient", 0)) > 0


def base_name(run_name: str) -> str:
    """The name of a run without its seed: drgrpo-seed0 -> drgrpo"""
    return _SEED_SUFFIX.sub("", run_name)


def collect_arms(data: ReportData) -> list[Arm]:
    """Arms in the order of the evaluation's models, then training runs that were not evaluated."""
    arms: dict[str, Arm] = {}
    for evaluation in data.evaluations:
        taken: set[str] = set()
        for label in evaluation.metrics["models"]:
            key = _model_key(evaluation, label)
            if key in taken:  # two models of one run: its last and its best, say
                key = label
            taken.add(key)
            arms.setdefault(key, Arm(key=key, label=label)).evaluated = True
    labels = {_plain(arm.label): key for key, arm in arms.items()}
    for run in data.training:
        key = base_name(run.name)
        if key not in arms:
            key = labels.get(_plain(key), key)
        arms.setdefault(key, Arm(key=key, label=key)).runs.append(run)
    for arm in arms.values():
        arm.is_warm_start = any(run.is_supervised for run in arm.runs) or _plain(arm.label) in (
            "warmstart",
            "sft",
            "base",
        )
    _colour(list(arms.values()))
    return list(arms.values())


def _colour(arms: list[Arm]) -> None:
    trained = [arm for arm in arms if not arm.is_warm_start]
    for number, arm in enumerate(trained):
        arm.colour = PALETTE[number % len(PALETTE)]
        arm.dash = DASHES[number % len(DASHES)]
        arm.symbol = SYMBOLS[number % len(SYMBOLS)]


def _model_key(evaluation: Evaluation, label: str) -> str:
    """The run a model comes from, by its adapter's path (.../drgrpo-seed0/adapter); else its label."""
    entry = evaluation.config.get("adapters", {}).get(label)
    adapter = entry.get("adapter") if isinstance(entry, dict) else entry
    return base_name(Path(adapter).parent.name) if adapter else label


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
