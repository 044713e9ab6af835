"""`polyray curate selections`: what people picked as training data and as numbers (not a job itself)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK, ConfigError, DataError, boundary

if TYPE_CHECKING:
    from argparse import Namespace

    from polyray.data.selections import StoredRecord
    from polyray.data.selections.export import Exported

DESCRIPTION = """Training data and numbers from the selections of a generation service.

DATABASE is the service's `database`: a URL of SQLAlchemy, or the path of a SQLite file. It is not changed, and may be
in use. Writes into DIR:

  pairs.jsonl      {"prompt", "chosen", "rejected", "metadata"}: for polyray train_reward
  sft.jsonl        {"prompt", "completion"} or {"messages"}:     for polyray sft
  selections.json  what was used and why the rest was not; by model and k: the quality of people's picks (measured
                   USQ) beside that of selectors' picks, with 95 % bootstrap intervals over prompts;
                   the share of `none`; how often people agreed with the selector; whether they prefer a place

The latest selection of a set counts. A text that a person edited is chosen over what it was made of. Written last:
selections.json; the files are replaced, each as a whole.

  polyray curate selections runs/selections.db --check
  polyray curate selections runs/selections.db --out runs/picked --model policy-v17 --since 2026-03-01
  polyray train_reward configs/reward/my_pairs.yaml data.path=runs/picked/pairs.jsonl name=reward-picked
  polyray sft CONFIG data.type=jsonl data.train=runs/picked/sft.jsonl
"""


def selections(argv: Sequence[str]) -> int:
    """The command line."""
    args = _parser().parse_strictly(argv)
    if not args.out and not args.check:
        raise ConfigError("--out is missing: give a directory for the files, or --check to see counts only")
    for name in ("min_candidates", "resamples"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    since = _since(args.since)
    from polyray.data.selections.export import export

    name, records = _read(args.database, args.model, since)
    exported = export(records, args.min_candidates)
    if args.check:
        print(json.dumps({"job": "curate selections", "database": name, **_counts(exported)}, indent=2))
        return EXIT_OK
    report = _report(args, records, exported)
    out = Path(args.out)
    _write(out, exported, report)
    print(summary(report))
    print(
        f"pairs     {out / 'pairs.jsonl'}\nsft       {out / 'sft.jsonl'}\nnumbers   {out / 'selections.json'}"
    )
    return EXIT_OK


def _parser() -> JobParser:
    parser = JobParser("curate selections", DESCRIPTION)
    parser.add_argument("database", metavar="DATABASE", help="e.g. runs/selections.db")
    parser.add_argument("--out", metavar="DIR", default="", help="where the files go, e.g. runs/picked")
    parser.add_argument("--model", help="only what this model answered, as /v1/models lists it")
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="only candidates made then or later, ISO 8601, e.g. 2026-03-01T12:00:00Z",
    )
    parser.add_argument(
        "--min-candidates",
        type=int,
        default=2,
        metavar="N",
        help="rows come from sets that showed so many or more; default 2",
    )
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap; default 2000")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--check", action="store_true", help="print counts as JSON and write nothing")
    return parser


def _since(text: str | None) -> float | None:
    from polyray.shelf.preferences.engagement.records import moment

    if text is None:
        return None
    try:
        return moment(text).timestamp()
    except ValueError as error:
        raise ConfigError(f"--since {error}") from None


def _read(database: str, model: str | None, since: float | None) -> tuple[str, list[StoredRecord]]:
    """(what the database is called, without its password; the sets)."""
    from polyray.data.selections import SelectionStore

    store = SelectionStore(database, create=False)
    try:
        records = list(store.records(model=model, since=since))
        models = store.models()
    finally:
        store.close()
    if model is not None and model not in models:
        known = ", ".join(models) or "none"
        raise DataError(f"--model {model}: {store.name} has no candidates of it; there are those of {known}")
    return store.name, records


def _counts(exported: Exported) -> dict[str, Any]:
    names = ("sets", "selections", "picked", "edited", "none", "written_instead")
    return {
        **{name: exported.counts[name] for name in names},
        "pairs": len(exported.pairs),
        "demonstrations": len(exported.demonstrations),
        "left_out": dict(sorted(exported.left_out.items())),
    }


def _report(args: Namespace, records: Sequence[StoredRecord], exported: Exported) -> dict[str, Any]:
    from polyray.shelf.preferences.selections import Bootstrap, measured_selection

    return {
        "model": args.model,
        "since": args.since,
        "min_candidates": args.min_candidates,
        "resamples": args.resamples,
        "seed": args.seed,
        **_counts(exported),
        "measured": measured_selection(records, Bootstrap(resamples=args.resamples, seed=args.seed)),
    }


def _write(out: Path, exported: Exported, report: Mapping[str, Any]) -> None:
    from polyray.runs.atomic import atomic_write_json, atomic_write_text

    def lines(rows: Iterable[Mapping[str, Any]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    with boundary(DataError, f"{out}: the files cannot be written; free space, or give another --out"):
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out / "pairs.jsonl", lines(exported.pairs))
        atomic_write_text(out / "sft.jsonl", lines(exported.demonstrations))
        atomic_write_json(out / "selections.json", report)


def summary(report: Mapping[str, Any]) -> str:
    """selections.json as a few lines of text."""
    lines = [
        f"{report['sets']:,} sets, {report['selections']:,} answered: {report['picked']:,} picked "
        f"({report['edited']:,} edited), {report['none']:,} none, {report['written_instead']:,} written instead",
        f"{report['pairs']:,} pairs, {report['demonstrations']:,} demonstrations",
        *(f"left out  {number:,} {reason}" for reason, number in report["left_out"].items()),
    ]
    if not report["measured"]:
        return "\n".join(lines)
    table = [
        [
            "model",
            "k",
            "scored",
            "measured USQ",
            "selector's",
            "best",
            "mean",
            "agree (chance)",
            "none",
            "place",
        ]
    ]
    table += [_row(entry) for entry in report["measured"]]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.append("95 % intervals over prompts; place: p of a chi-square test that no place is preferred")
    return "\n".join(lines)


def _row(entry: Mapping[str, Any]) -> list[str]:
    usq, chance, places = entry["usq"], entry["agreement_by_chance"], entry["positions"]
    return [
        entry["model"],
        str(entry["k"]),
        f"{entry['scored']:,}",
        _cell(usq["measured"]),
        _cell(usq["selected"]),
        _value(usq["best"]),
        _value(usq["mean"]),
        "-" if chance is None else f"{_cell(entry['agreement'])} ({chance:.3f})",
        _value(entry["none_share"]),
        "-" if places is None else f"{places['p']:.3f}",
    ]


def _cell(interval: Mapping[str, float] | None) -> str:
    return (
        "-"
        if interval is None
        else f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
    )


def _value(interval: Mapping[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.3f}"
