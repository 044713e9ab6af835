"""Training data from engagement (`data CONFIG`) and from people's selections (`selections DATABASE`).

`data` imports, filters, removes duplicates, divides, and reports. It reads a CurateConfig (configs/curate/) whose
source is Stack Exchange threads, Upworthy headline tests, your own export (JSON Lines, CSV, Parquet), a Hugging Face
data set, or records of an earlier run. Writes runs/NAME/:

  data/train.jsonl, validation.jsonl, test.jsonl   records with part and phase; no part shares a thread, a prompt or
                                                   almost the same text with another
  sft.jsonl, sft_validation.jsonl                  for polyray sft:   data.type=jsonl data.train=runs/NAME/sft.jsonl
  rl.jsonl, rl_held_out.jsonl                      for polyray train: task.type=jsonl task.path=runs/NAME/rl.jsonl
                                                   task.held_out_path=runs/NAME/rl_held_out.jsonl
  report.html, report.json, statistics.json        what was kept and why the rest was not
  review.csv                                       write keep, drop or a note into it and start the same line again

  polyray curate data configs/curate/stack_exchange.yaml
  polyray curate data configs/curate/stack_exchange.yaml source.path=threads.jsonl.gz name=my-threads
  polyray curate data configs/curate/upworthy.yaml source.path=upworthy.jsonl.gz 'select={count: 1000}'
  polyray curate data configs/curate/export.yaml source.path=export.csv 'source.columns={completion: text}'
  polyray curate data configs/curate/export.yaml --check    how many records the source has

`selections` reads the database of a generation service: preference pairs, demonstrations, measured USQ;
`selections --help` explains it.

  polyray curate selections runs/selections.db --out runs/picked
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from polyray.cli import curate_selections
from polyray.cli.arguments import JobParser, parse
from polyray.config.curate import CurateConfig
from polyray.errors import EXIT_OK

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory
    from polyray.shelf.preferences.curation.pipeline import CountTokens, Curated, Encode, Tools

RESUMABLE_KEYS = ("runs_dir", "ray.*", "review")
"""Keys that may differ on resume. Decisions are inputs, like the data."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: which of SUBCOMMANDS, then its own arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    names = ", ".join(SUBCOMMANDS)
    usage = "polyray curate data CONFIG [key=value ...] [--check] | selections DATABASE --out DIR"
    parser = JobParser("curate", __doc__, usage=usage)
    parser.add_argument("subcommand", help=names)
    given = parser.parse_strictly(arguments).subcommand
    parser.error(f"unknown subcommand {given!r}; known: {names}")


def data(argv: Sequence[str]) -> int:
    """`curate data`."""
    args = parse(argv, job="curate data", description=__doc__, config_model=CurateConfig)
    if args.check:
        return args.print_check(
            derived=lambda: derived_sizes(args.config), inputs=lambda: check_inputs(args.config)
        )
    from polyray.runs.progress import ProgressDisplay

    with ProgressDisplay() as display:
        run_curation(args.config, display)
    return EXIT_OK


def run_curation(config: CurateConfig, display: ProgressDisplay) -> None:
    """A curation from wherever it stands to DONE, again where an input has changed."""
    from polyray.launch.cost import DRIVER, account, show_cost
    from polyray.runs.run_directory import RunDirectory, RunPaths
    from polyray.shelf.preferences.curation.files import input_digests

    inputs = input_digests(config)  # a path that is wrong leaves no run directory
    if not RunPaths(config.run_dir).done.is_file():
        check_inputs(config)
    with RunDirectory.open(config, RESUMABLE_KEYS) as directory:
        if directory.finished and directory.summary()["inputs"] != inputs:
            changed = [
                name for name, digest in inputs.items() if directory.summary()["inputs"].get(name) != digest
            ]
            display.note(f"curated again: another {', '.join(changed)} than last time")
            directory.paths.done.unlink()
        if not directory.finished:
            with account("curate data", config, DRIVER):
                curate_data(config, directory, display, inputs)
        show(directory, display)
        show_cost(directory.paths.root, display)


SUBCOMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "data": data,
    "selections": curate_selections.selections,
}


def check_inputs(config: CurateConfig) -> None:
    """Looks for the word list, the languages, the encoder and the tokenizer. Raises ConfigError and DataError."""
    from polyray.models.embedder import encoder_directory
    from polyray.shelf.preferences.curation.filters import build_rules

    build_rules(config.filters)
    if config.select is not None:
        encoder_directory(config.select.encoder)
    if config.model is not None:
        _tokenizer(config.model.path)


def derived_sizes(config: CurateConfig) -> dict[str, Any]:
    """Size of the source; a hub is not asked. The review file and the word list are read and checked."""
    from polyray.shelf.preferences.curation.files import input_digests, own_reviews
    from polyray.shelf.preferences.curation.review import check_known
    from polyray.shelf.preferences.engagement import import_source

    if config.source.type == "hub":
        return {"records": None, "why": "a hub is asked when the job runs"}
    input_digests(config)
    imported = import_source(config.source)
    reviews = own_reviews(config)
    check_known(reviews, {record.record_id for record in imported.records})
    return {
        "rows": imported.num_rows,
        "left_out": dict(imported.left_out),
        "records": len(imported.records),
        "prompts": len({record.prompt_id for record in imported.records}),
        "clusters": len({record.cluster_id for record in imported.records}),
        "reviewed": len(reviews),
    }


def curate_data(
    config: CurateConfig, directory: RunDirectory, display: ProgressDisplay, inputs: dict[str, str]
) -> None:
    """One curation, from the source to DONE."""
    from polyray.shelf.preferences.curation.files import own_reviews, write_outputs
    from polyray.shelf.preferences.curation.pipeline import curate
    from polyray.shelf.preferences.engagement import import_source

    started = time.perf_counter()
    display.update(phase="import")
    imported = import_source(config.source)
    reviews = own_reviews(config)
    curated = curate(
        config,
        imported,
        reviews,
        build_tools(config),
        progress=lambda step, number: display.update(phase=f"{step}: {number:,} records"),
    )
    display.update(phase="report")
    write_outputs(config, directory.paths.root, imported, curated, reviews)
    directory.mark_done(
        {
            "inputs": inputs,
            "kept": len(curated.kept),
            "report": str(directory.paths.report),
            "seconds": round(time.perf_counter() - started, 2),
        }
    )
    display.note(summary(curated))


def build_tools(config: CurateConfig) -> Tools:
    """The encoder and the tokenizer, where the configuration asks for them."""
    from polyray.shelf.preferences.curation.pipeline import Tools

    encode: Encode | None = None
    count_tokens: CountTokens | None = None
    if config.select is not None:
        from polyray.models.embedder import Embedder

        encode = Embedder(config.select.encoder).encode
    if config.model is not None:
        from polyray.shelf.preferences.curation.tokens import token_lengths

        count_tokens = partial(token_lengths, spec=config.rows, tokenizer=_tokenizer(config.model.path))
    return Tools(encode, count_tokens)


def _tokenizer(model_path: str) -> Any:
    from polyray.config.model import ModelSpec
    from polyray.models.base_files import resolve_model_dir
    from polyray.models.tokenizer import load_tokenizer

    return load_tokenizer(resolve_model_dir(ModelSpec(path=model_path)))


def summary(curated: Curated) -> str:
    """The main numbers as lines of text."""
    numbers = curated.statistics
    lines = [f"records   {numbers['source']['records']:,}, kept {numbers['kept']:,}"]
    lines += [f"dropped   {count:,} {reason}" for reason, count in numbers["dropped"].items()]
    for name, group in numbers["groups"].items():
        distance = numbers["balance"]["groups"].get(name, {}).get("kolmogorov_smirnov")
        balanced = "" if distance is None else f", distance to all {distance:.3f}"
        mean = group["engagement"]["mean"]
        lines.append(
            f"{name:<11}{group['records']:,} records, {group['clusters']:,} clusters, {group['comparable_pairs']:,} "
            f"pairs, engagement {mean:.3f}{balanced}"
        )
    return "\n".join(lines)


def show(directory: RunDirectory, display: ProgressDisplay) -> None:
    """Print the files of a finished curation."""
    root = directory.paths.root
    display.note(
        f"data      {root / 'data'}\nreview    {root / 'review.csv'}\nreport    {directory.paths.report}"
    )
