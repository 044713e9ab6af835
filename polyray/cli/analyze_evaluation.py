"""Analysis of finished evaluations: theory, conditions, criteria, domains, and tables for a paper.

RUN is a run directory of polyray evaluate (or `evaluate score` into RUN/evaluation), or a directory of them.
Runs of polyray judge on their samples and of polyray evaluate reward may be beside them: criteria need both.

  polyray analyze evaluation runs/eval --out runs/analysis
  polyray analyze evaluation runs/code runs/math runs/stories --out runs/analysis        several domains
  polyray analyze evaluation runs/quickstart --reference "warm start" --out runs/analysis
  polyray analyze evaluation runs/eval --out runs/analysis --check                       what would be read

Writes DIR/evaluation.html (all of it on one page); theory.json (pass@k as a beta-binomial predicts it from half of
the samples, beside what was measured; from which k on a model overtakes another), conditions.json (gain over the
baseline by difficulty, by answers known, by length; the worst prompts with their candidates), criteria.json (the
research's limits: met or not, and the place of its value), domains.json; tables/ (LaTeX with booktabs, Markdown, and
tables.json: file, place, hash of every cell) and data/ (every figure's points as CSV).
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK

if TYPE_CHECKING:
    from polyray.shelf.research.evaluated.inputs import Inputs
    from polyray.shelf.research.evaluated.results import Results


def analyze_evaluation(argv: Sequence[str] | None = None) -> int:
    """Parse, compute, write; print a summary and the paths of the files."""
    args = _parse(argv)
    # Thousands of tiny fits: threads of a BLAS would wait for each other longer than one of them computes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from polyray.shelf.research.evaluated.inputs import read_inputs

    inputs = read_inputs(args.runs)
    if args.check:
        return _print_check(inputs, args)
    from polyray.shelf.research.evaluated.files import write_results
    from polyray.shelf.research.evaluated.results import analyse

    results = analyse(inputs, args.reference)
    written = write_results(results, Path(args.out))
    print("\n".join(summary(results)))
    print(f"\nwritten: {', '.join(map(str, written))}")
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = JobParser("analyze evaluation", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory, or a directory of them")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="the model that determines how hard a prompt is (default: the warm start, else the baseline)",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where the files go; made if it is missing"
    )
    parser.add_argument("--check", action="store_true", help="print what would be read as JSON and exit")
    return parser.parse_strictly(argv)


def _print_check(inputs: Inputs, args: Namespace) -> int:
    from polyray.shelf.research.evaluated.results import reference_of

    found = {
        "job": "analyze evaluation",
        "out": args.out,
        "evaluations": {
            run.label: {
                "domain": run.domain,
                "models": run.models,
                "baseline": run.baseline,
                "reference": reference_of(run, args.reference),
                "samples": str(run.samples_file) if run.samples_file.is_file() else None,
                "judges": [str(file.path) for file in run.judges],
                "cost": None if run.cost is None else str(run.cost.path),
            }
            for run in inputs.runs
        },
        "rewards": [str(file.path) for file in inputs.rewards],
        "notes": list(inputs.notes),
    }
    print(json.dumps(found, indent=2))
    return EXIT_OK


def summary(results: Results) -> list[str]:
    """A few lines per evaluation: criteria met, crossings of models, gains and losses, what to generate."""
    from polyray.shelf.research.evaluated.collapse import advice

    lines: list[str] = []
    for run in results.inputs.runs:
        lines.append(f"{run.label}: {run.domain}, {len(run.models)} models, baseline {run.baseline}")
        lines += [f"  {line}" for line in _theory_lines(results.theory["evaluations"][run.label])]
        lines += [f"  {line}" for line in _condition_lines(results.conditions["evaluations"][run.label])]
        lines += [f"  {line}" for line in advice(run)]
    lines += _criteria_lines(results.criteria["criteria"])
    return [*lines, *results.domains["notes"], *results.inputs.notes]


def _theory_lines(theory: Mapping[str, Any]) -> list[str]:
    if theory["why_not"]:
        return [f"theory: {theory['why_not']}"]
    lines = []
    for name, model in theory["models"].items():
        if model["fit_half"] is None or model["goodness_of_fit"] is None:
            lines.append(f"theory of {name}: {model['why_no_fit']}")
        else:
            lines.append(
                f"theory of {name}: pass@k off by {model['largest_error']:.3f} at most on samples outside the fit, "
                f"p of the fit {model['goodness_of_fit']['p']:.3f}"
            )
    for pair in theory["pairs"]:
        if pair["measured_k"] not in (None, 1) or pair["predicted_k"] is not None:
            predicted = "never" if pair["predicted_k"] is None else f"k = {pair['predicted_k']:.1f}"
            n = pair["n_samples"]
            measured, other = (
                f"not within {of}" if pair[key] is None else f"k = {pair[key]}"
                for key, of in (("measured_k", n), ("measured_k_other_half", n // 2))
            )
            lines.append(
                f"{pair['behind']} overtakes {pair['ahead']}: predicted {predicted}, measured {measured}, on samples "
                f"outside the fit {other}"
            )
    return lines


def _condition_lines(conditions: Mapping[str, Any]) -> list[str]:
    """Lines on difficulty alone: bins in which a model helps and hurts, with one candidate and with k."""
    if conditions["why_not"]:
        return [f"conditions: {conditions['why_not']}"]
    gains = dict.fromkeys(["pass@1", f"pass@{conditions['k']}"])
    lines = []
    for name, bins in conditions["conditions"]["difficulty"]["models"].items():
        said = {gain: [each["gains"][gain]["says"] for each in bins] for gain in gains}
        counts = (
            f"{gain} helps in {of.count('helps')} and hurts in {of.count('hurts')}"
            for gain, of in said.items()
        )
        lines.append(
            f"{name} against {conditions['baseline']}, {len(bins)} bins of difficulty: {', '.join(counts)}"
        )
    return lines


def _criteria_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = {
        status: sum(entry["status"] == status for entry in entries)
        for status in ("pass_target", "pass", "fail", "not_measured")
    }
    return [
        f"criteria: {counts['pass_target']} at the target, {counts['pass']} at the minimum, "
        f"{counts['fail']} not met, {counts['not_measured']} not measured"
    ]
