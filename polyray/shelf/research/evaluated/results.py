"""Results about finished evaluations, from their files to plain values: the contents of the JSON files.

    inputs --samples, one evaluation at a time--> outcomes --> theory, conditions
           --metrics.json, judgements, rewards--> criteria, domains

Called by polyray analyze evaluation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.errors import ConfigError
from polyray.evaluation.sample_source import SampleFile
from polyray.report.arms import collect_arms
from polyray.report.run_data import ReportData
from polyray.shelf.research.evaluated.conditions import Compared, conditions
from polyray.shelf.research.evaluated.criteria import criteria
from polyray.shelf.research.evaluated.domains import domains
from polyray.shelf.research.evaluated.inputs import EvaluatedRun, Inputs
from polyray.shelf.research.evaluated.outcomes import read_outcomes
from polyray.shelf.research.evaluated.theory import theory
from polyray.shelf.research.evaluated.worst_prompts import with_candidates


@dataclass(frozen=True)
class Results:
    """Results of the analysis; every member but the first is written as a JSON file of its name.

    Example:
        Results(inputs=Inputs(...), theory={"evaluations": {}}, conditions={"evaluations": {}}, criteria={...},
                domains={...})
    """

    inputs: Inputs
    theory: dict[str, Any]
    conditions: dict[str, Any]
    criteria: dict[str, Any]
    domains: dict[str, Any]


def analyse(inputs: Inputs, reference: str | None = None) -> Results:
    """Run all analyses. `reference` is the model that determines how hard a prompt is; None: see `reference_of`.

    Raises ConfigError for a reference that an evaluation lacks, DataError for samples that do not fit metrics.json.
    """
    references = {run.label: reference_of(run, reference) for run in inputs.runs}
    of_theory: dict[str, Any] = {}
    of_conditions: dict[str, Any] = {}
    for run in inputs.runs:
        of_theory[run.label], of_conditions[run.label] = _from_samples(run, references[run.label])
    return Results(
        inputs=inputs,
        theory={"evaluations": of_theory},
        conditions={"evaluations": of_conditions},
        criteria=criteria(inputs),
        domains=domains(inputs.runs),
    )


def reference_of(run: EvaluatedRun, wanted: str | None = None) -> str:
    """The wanted model; else the warm start, by its name; else the baseline."""
    if wanted is not None:
        if wanted not in run.models:
            raise ConfigError(
                f"--reference {wanted!r} is not a model of {run.label}, which has {', '.join(run.models)}"
            )
        return wanted
    arms = collect_arms(ReportData([], [run.evaluation]))
    return next((arm.label for arm in arms if arm.is_warm_start), run.baseline)


def _from_samples(run: EvaluatedRun, reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(entry of theory.json, entry of conditions.json); without samples both say so."""
    file = run.samples_file
    if not file.is_file():
        why_not = f"{file} was not kept; what needs single samples is not told"
        return (
            {"why_not": why_not, "models": {}, "pairs": []},
            {"why_not": why_not, "conditions": {}, "worst": {}},
        )
    settings = Compared(
        baseline=run.baseline,
        reference=reference,
        ks=tuple(run.ks),
        confidence=run.confidence,
        seed=run.evaluation.seed,
    )
    read_from = {"samples": {"file": str(file), "sha256": _sha256(file)}}
    with SampleFile(file) as source:
        outcomes = read_outcomes(source, run.metrics.values)
        gains = with_candidates(conditions(outcomes, settings), source, run.pass_threshold)
    predicted = theory(outcomes, run.confidence, run.evaluation.seed)
    return {**read_from, "why_not": None, **predicted}, {**read_from, **gains}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
