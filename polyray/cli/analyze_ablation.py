"""Layer-wise contribution: an adapter is evaluated whole and without each of its layers, on the same prompts.

CONFIG is an evaluation (configs/evaluate/); its own adapters are left out. The difference to the whole adapter is
a layer's contribution to quality (pass@1) and to the set (pass@k, distinct-correct@k), with intervals paired by
prompt. Layers work together, so contributions need not add up.

  polyray analyze ablation configs/evaluate/hidden_trap_grid.yaml --adapter runs/a/adapter name=ablation
  polyray analyze ablation CONFIG --adapter runs/a/adapter --by module evaluation.num_prompts=200

Writes runs/NAME/: ablated/ (the adapters), evaluation/ (as polyray evaluate), contributions.json and .csv, and
tables/ (LaTeX and Markdown). After a kill the same command resumes.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.cli.analyze_lora import adapter_directory
from polyray.cli.arguments import parse
from polyray.config.loader import build_config
from polyray.config.prompts import ArmSpec
from polyray.config.run import EvaluateConfig
from polyray.errors import EXIT_OK
from polyray.runs.run_directory import RunDirectory

ABLATED = "ablated"
"""Folder of the run directory for adapters without a part."""
SHOWN = ("pass_at_k", "distinct_correct_at_k")


def analyze_ablation(argv: Sequence[str] | None = None) -> int:
    """Parses, writes the ablated adapters, evaluates them, prints what each part adds."""
    args = parse(
        argv,
        job="analyze ablation",
        description=__doc__,
        config_model=EvaluateConfig,
        extra=_add_options,
    )
    adapter = adapter_directory(args.namespace.adapter)
    if args.check:
        from polyray.launch.plan import check_evaluation

        whole = args.config.model_copy(update={"adapters": {"whole": ArmSpec(adapter=str(adapter))}})
        return args.print_check(
            lambda: {"adapter": str(adapter), "by": args.namespace.by}, lambda: check_evaluation(whole)
        )
    from polyray.launch.cost import show_cost
    from polyray.launch.evaluate import evaluate_on_engines, resumable_keys
    from polyray.launch.plan import plan_evaluation
    from polyray.runs.progress import ProgressDisplay
    from polyray.shelf.research.lora.contributions import contributions

    config = _with_ablations(args.config, adapter, args.namespace.by)
    with ProgressDisplay() as display, RunDirectory.open(config, resumable_keys()) as directory:
        plan = None
        if not directory.finished:
            _write_ablated(config, adapter, args.namespace.by)
            plan = plan_evaluation(config)
        evaluate_on_engines(config, plan, directory, display)
        metrics = json.loads((directory.paths.evaluation / "metrics.json").read_text(encoding="utf-8"))
        entries = contributions(metrics["comparisons"])
        _write(entries, directory.paths.root)
        display.note(_table(entries))
        display.note(
            f"written   {directory.paths.root / 'contributions.json'}, contributions.csv and tables/"
        )
        show_cost(directory.paths.root, display)
    return EXIT_OK


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--adapter", required=True, metavar="ADAPTER", help="a directory in PEFT format, or a run directory"
    )
    parser.add_argument(
        "--by", choices=("layer", "module"), default="layer", help="what is taken out (default: layer)"
    )


def _with_ablations(config: EvaluateConfig, adapter: Path, by: Any) -> EvaluateConfig:
    """The evaluation of the whole adapter and of each without a part."""
    from polyray.models.base_files import base_fingerprint, resolve_model_dir
    from polyray.shelf.research.lora.ablation import ablated_directories
    from polyray.shelf.research.lora.contributions import WHOLE

    base = base_fingerprint(resolve_model_dir(config.model))
    without = ablated_directories(adapter, base, config.run_dir / ABLATED, by)
    values = config.model_dump(mode="json")
    values["adapters"] = {WHOLE: str(adapter), **{name: str(path) for name, path in without.items()}}
    values["compare_to"] = WHOLE
    values["evaluation"]["comparisons"] = "baseline"
    return build_config(EvaluateConfig, values, "analyze ablation")


def _write_ablated(config: EvaluateConfig, adapter: Path, by: Any) -> None:
    from polyray.models.base_files import base_fingerprint, resolve_model_dir
    from polyray.shelf.research.lora.ablation import write_ablated

    write_ablated(adapter, base_fingerprint(resolve_model_dir(config.model)), config.run_dir / ABLATED, by)


def _write(entries: Sequence[Mapping[str, Any]], root: Path) -> None:
    from polyray.runs.atomic import atomic_write_json, atomic_write_text
    from polyray.shelf.research.evaluated.files import write_tables
    from polyray.shelf.research.evaluated.inputs import read_inputs
    from polyray.shelf.research.evaluated.tables import ablation
    from polyray.shelf.research.lora.results import as_csv

    atomic_write_json(root / "contributions.json", list(entries))
    atomic_write_text(root / "contributions.csv", as_csv(entries))
    (run,) = read_inputs([root]).runs
    write_tables([ablation(run)], root / "tables")


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    """A line per part: what it adds to pass@1, and to the set at the largest k."""
    largest = max((entry["k"] for entry in entries), default=1)
    wanted = [("pass_at_k", 1), *((metric, largest) for metric in SHOWN)]
    cells = {(entry["part"], entry["metric"], entry["k"]): entry for entry in entries}
    lines = [
        "contribution      " + "".join(f"{metric.removesuffix('_at_k')}@{k:<22}" for metric, k in wanted)
    ]
    for part in dict.fromkeys(entry["part"] for entry in entries):
        found = [cells.get((part, metric, k)) for metric, k in wanted]
        lines.append(f"{part:18}" + "".join(f"{_cell(entry):28}" for entry in found))
    return "\n".join(lines)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "not measured"
    return f"{entry['contribution']:+.3f} [{entry['low']:+.3f}, {entry['high']:+.3f}]"
