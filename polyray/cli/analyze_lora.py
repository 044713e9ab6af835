"""Analysis of adapters by layer and module, from their files alone.

For every adapter: norms of A, B and Delta W = scale B A, singular values, effective and stable rank. For every two:
their cosine, the overlap of the spaces that they write and read, and the overlap by chance. For arms with several
seeds: the distance between arms, beside the distance of two seeds of one arm, with an exact test. Ranks may differ,
bases may not.

  polyray analyze lora runs/a/adapter runs/b/adapter --out runs/analysis
  polyray analyze lora runs/a runs/b --since runs/sft/adapter --out runs/analysis      what RL alone changed
  polyray analyze lora --arm grpo runs/g0 runs/g1 runs/g2 --arm polychromic runs/p0 runs/p1 runs/p2 --out DIR
  polyray analyze lora --checkpoints runs/a/v0 runs/a/v20 runs/a/v40 --out DIR         the way it took

Writes DIR/lora.json (everything), modules.csv, overlaps.csv, arms.csv, drift.csv, and DIR/lora.html: heatmaps of all
of it on one page that opens without a network.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK, ConfigError

ADAPTER = "adapter"
"""Folder of a run directory for its adapter."""


def analyze(argv: Sequence[str] | None = None) -> int:
    """Parses, computes, writes; prints the modules that changed most."""
    args = _parse(argv)
    directories = {str(path): adapter_directory(path) for path in _named(args)}
    if args.check:
        print(
            json.dumps(
                {"job": "analyze lora", "adapters": {n: str(d) for n, d in directories.items()}}, indent=2
            )
        )
        return EXIT_OK
    from polyray.shelf.research.lora.results import Arm, lora_results
    from polyray.shelf.research.lora.updates import read_adapter_updates

    known = {name: read_adapter_updates(directory, name) for name, directory in directories.items()}
    results = lora_results(
        [known[name] for name in args.adapters],
        known[args.since] if args.since else None,
        [Arm(name, tuple(known[path] for path in paths)) for name, *paths in args.arm],
        [known[path] for path in args.checkpoints],
    )
    out = Path(args.out)
    _write(results, out)
    _print_summary(results)
    print(f"\nwritten: {out / 'lora.html'}, and lora.json and tables beside it")
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = JobParser("analyze lora", __doc__)
    parser.add_argument(
        "adapters", nargs="*", metavar="ADAPTER", help="a directory in PEFT format, or a run directory"
    )
    parser.add_argument(
        "--since", metavar="ADAPTER", help="analyse what came after this one, e.g. the warm start"
    )
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "ADAPTER"),
        help="one adapter per seed",
    )
    parser.add_argument(
        "--checkpoints", nargs="+", default=[], metavar="ADAPTER", help="of one run, in order"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where the files go; made if it is missing"
    )
    parser.add_argument("--check", action="store_true", help="print which adapters would be read and exit")
    args = parser.parse_strictly(argv)
    if len(args.arm) == 1:
        parser.error(f"--arm {args.arm[0][0]} cannot be compared with another arm; give --arm twice or more")
    for name, *paths in args.arm:
        if not paths:
            parser.error(f"--arm {name} names no adapter; write --arm NAME ADAPTER [ADAPTER ...]")
    if not (args.adapters or args.arm or args.checkpoints):
        parser.error("no adapter given; name at least one, or --arm, or --checkpoints")
    return args


def _named(args: Namespace) -> list[str]:
    """Every adapter on the command line, once."""
    of_arms = [path for _, *paths in args.arm for path in paths]
    since = [args.since] if args.since else []
    return list(dict.fromkeys([*args.adapters, *since, *of_arms, *args.checkpoints]))


def adapter_directory(given: str) -> Path:
    """Directory of the adapter: the given one, or the one in that run directory. Raises ConfigError."""
    directory = Path(given)
    for candidate in (directory, directory / ADAPTER):
        if (candidate / "adapter_config.json").is_file():
            return candidate
    raise ConfigError(
        f"{given} is not an adapter and contains none: neither it nor its {ADAPTER}/ has an adapter_config.json"
    )


def _write(results: Mapping[str, Any], out: Path) -> None:
    from polyray.runs.atomic import atomic_write_json, atomic_write_text
    from polyray.shelf.research.lora.page import write_lora_page
    from polyray.shelf.research.lora.results import as_csv

    out.mkdir(parents=True, exist_ok=True)
    atomic_write_json(out / "lora.json", results)
    tables = {
        "modules": [
            {"adapter": each["name"], **row} for each in results["adapters"] for row in each["modules"]
        ],
        "overlaps": _rows(results["overlaps"]),
        "arms": _rows(results["arms"]),
        "drift": results["drift"]["modules"],
    }
    for name, rows in tables.items():
        if rows:
            atomic_write_text(out / f"{name}.csv", as_csv(rows))
    write_lora_page(results, out / "lora.html")


def _rows(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"first": pair["first"], "second": pair["second"], **row} for pair in pairs for row in pair["modules"]
    ]


def _print_summary(results: Mapping[str, Any], count: int = 5) -> None:
    for each in results["adapters"]:
        print(f"{each['name']}: rank {each['rank']}, the modules that changed most")
        for row in sorted(each["modules"], key=lambda row: -row["norm"])[:count]:
            print(
                f"  layer {row['layer']:>3}  {row['module']:24} norm {row['norm']:.4g}  "
                f"effective rank {row['effective_rank']:.2f}  stable rank {row['stable_rank']:.2f}"
            )
    for each in results["arms"]:
        tested = [row for row in each["modules"] if row["p_adjusted"] is not None]
        shown = sum(row["p_adjusted"] < 0.05 for row in tested)
        print(
            f"{each['first']} against {each['second']}: {shown} of {len(tested)} modules differ (Holm, .05)"
        )
        if tested and tested[0]["smallest_p"] * len(tested) >= 0.05:
            print(
                f"  so few seeds cannot show it: the smallest p that they allow is {tested[0]['smallest_p']:.3g}, "
                f"for {len(tested)} modules"
            )
