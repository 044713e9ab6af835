"""Analysis of attention and hidden states of policies.

RUN is a run directory of polyray evaluate. All models read the completions of one of them: how spread the
attention of
each head is (relative entropy), and how far it is from the reference's (Jensen-Shannon distance). And behind some
layers, each model's own completions of a prompt are grouped by their hidden states: how many groups there are,
whether they recur in parts of the completions (stability), whether they are the different solutions (agreement).

  polyray analyze mechanistic runs/quickstart/evaluation-seed0 --out runs/mechanistic
  polyray analyze mechanistic RUN --models "warm start" polychromic --layers 1 2 4 --prompts 100 --out DIR
  polyray analyze mechanistic RUN --out DIR --check                        what would be looked at

Writes DIR/mechanistic.json, attention.csv, attention_by_layer.csv, clusters.csv, and mechanistic.html. Runs on the
CPU with unfused attention: meant for a few hundred completions, not for all of them.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK, DataError

if TYPE_CHECKING:
    from polyray.shelf.research.evaluated.inputs import EvaluatedRun

PROMPTS = 50
SAMPLES = 16
TABLES = ("attention", "attention_by_layer", "clusters")


def analyze_mechanistic(argv: Sequence[str] | None = None) -> int:
    """Parses, computes, writes; prints what differs most."""
    args = _parse(argv)
    from polyray.shelf.research.evaluated.inputs import read_inputs
    from polyray.shelf.research.evaluated.results import reference_of

    run, *more = read_inputs([args.run]).runs
    if more:
        raise DataError(f"{args.run} holds {1 + len(more)} evaluations; name one, e.g. {run.evaluation.path}")
    reference = reference_of(run, args.reference) or run.baseline
    if args.check:
        return _print_check(run, reference, args)
    from polyray.runs.progress import ProgressDisplay
    from polyray.shelf.research.mechanistic.inputs import read_material
    from polyray.shelf.research.mechanistic.results import mechanistic_results

    models = list(dict.fromkeys([reference, *(args.models or run.models)]))
    material = read_material(run, models, args.prompts, args.samples)
    with ProgressDisplay() as display:
        results = mechanistic_results(
            material,
            reference,
            args.layers,
            progress=lambda what, done, total: display.update(phase=what, step=done, total=total),
        )
    _write({"evaluation": run.label, **results}, Path(args.out))
    print("\n".join(summary(results)))
    print(f"\nwritten: {Path(args.out) / 'mechanistic.html'}, and mechanistic.json and tables beside it")
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = JobParser("analyze mechanistic", __doc__)
    parser.add_argument("run", metavar="RUN", help="a run directory of polyray evaluate")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="of the evaluation (default: all)")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="source of the completions, and reference of attention (default: warm start, else baseline)",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        type=int,
        metavar="N",
        help="layers with the states to group; 0: embeddings (default: four)",
    )
    parser.add_argument("--prompts", type=int, default=PROMPTS, help=f"how many (default: {PROMPTS})")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help=f"completions of each (default: {SAMPLES})"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where the files go; made if it is missing"
    )
    parser.add_argument("--check", action="store_true", help="print what would be looked at as JSON and exit")
    args = parser.parse_strictly(argv)
    for option, least in (("prompts", 2), ("samples", 3)):
        if getattr(args, option) < least:
            parser.error(f"--{option}={getattr(args, option)}, but it must be at least {least}")
    return args


def _print_check(run: EvaluatedRun, reference: str, args: Namespace) -> int:
    found = {
        "job": "analyze mechanistic",
        "evaluation": str(run.evaluation.path),
        "models": args.models or run.models,
        "reference": reference,
        "layers": args.layers,
        "prompts": args.prompts,
        "samples": args.samples,
        "out": args.out,
    }
    print(json.dumps(found, indent=2))
    return EXIT_OK


def _write(results: Mapping[str, Any], out: Path) -> None:
    from polyray.runs.atomic import atomic_write_json, atomic_write_text
    from polyray.shelf.research.lora.results import as_csv
    from polyray.shelf.research.mechanistic.page import write_mechanistic_page

    out.mkdir(parents=True, exist_ok=True)
    atomic_write_json(out / "mechanistic.json", dict(results))
    for table in TABLES:
        atomic_write_text(out / f"{table}.csv", as_csv(results[table]))
    write_mechanistic_page(results, out / "mechanistic.html")


def summary(results: Mapping[str, Any]) -> list[str]:
    """A line per model and layer: attention beside the reference's, groups of hidden states."""
    lines = [
        f"{results['prompts']} prompts, up to {results['samples']} completions; attention at those of "
        f"{results['reference']}"
    ]
    for entry in results["attention_by_layer"]:
        apart = (
            "" if entry["model"] == results["reference"] else f", {entry['distance']:.3f} from the reference"
        )
        lines.append(
            f"  layer {entry['layer']:>3}  {entry['model']:16} relative entropy {entry['entropy']:.3f}{apart}"
        )
    lines.append("groups of hidden states of a prompt's completions")
    for entry in results["clusters"]:
        known = [
            f"{measure} {entry[measure]:.2f}"
            for measure in ("silhouette", "stability", "agreement")
            if entry[measure] is not None
        ]
        lines.append(
            f"  layer {entry['layer']:>3}  {entry['model']:16} {entry['count']:.1f} groups, {', '.join(known)}"
        )
    return lines
