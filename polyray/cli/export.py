"""Writes a run's adapter for others: as PEFT files, or merged into its base, with a model card.

Reads runs/NAME/ of polyray sft or polyray train. The card (README.md) says base and licence, training data by
their hashes,
the configuration, and what an evaluation of exactly these weights measured, where there is one beside the run.
--adapter needs no base; --merged reads it and writes a model that needs neither PEFT nor polyray. An adapter trained
on a base in 4 bits (model.quantization=nf4) is merged into the base as it is stored, which is not quite what it was
trained on; the card says so. --push sends the result to a hub, into a private repository; its token is HF_TOKEN of
the environment. A push that failed is repeated by the same command: it sends what it wrote, if that is unchanged.

  polyray export runs/first --adapter exported/first
  polyray export runs/first --merged exported/first-model --best
  polyray export runs/first --adapter exported/first-v40 --version 40 --evaluation runs/evaluation
  polyray export runs/first --adapter exported/first --push me/first
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from polyray.shelf.export.merging import Merged
    from polyray.shelf.export.run_adapters import Measured, RunAdapter


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parse(argv)
    from polyray.shelf.export.hub import check_push, push
    from polyray.shelf.export.record import difference_from_export
    from polyray.shelf.export.run_adapters import adapter_of_run, find_evaluation

    target = Path(options.adapter or options.merged)
    if target.exists() and options.push is None:
        raise ConfigError(
            f"{target} exists; an export replaces nothing: give another directory, or delete it"
        )
    if options.push is not None:
        check_push(options.push)
    adapter = adapter_of_run(Path(options.run), best=options.best, version=options.version)
    measured = find_evaluation(adapter, Path(options.evaluation) if options.evaluation else None)
    asked = _asked(options, adapter, measured)
    if target.exists() and (difference := difference_from_export(target, asked)) is not None:
        raise ConfigError(
            f"{target} exists and is not what would be pushed ({difference}); an export replaces nothing: give "
            "another directory, or delete it"
        )
    if options.check:
        return _print_check(options, target, adapter, measured)
    if target.exists():
        print(f"exported  {target} before, unchanged since")
    else:
        _export(options, target, adapter, measured, asked)
        print(f"exported  {target} ({adapter.which} adapter of {adapter.run})")
    if options.push is not None:
        print(f"pushed    {push(target, options.push, public=options.public)}")
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = JobParser("export", __doc__)
    parser.add_argument("run", metavar="RUN", help="a run directory, e.g. runs/first")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--adapter", metavar="DIR", help="write the adapter, in PEFT format")
    kind.add_argument("--merged", metavar="DIR", help="write the base with the adapter merged in")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--best", action="store_true", help="the best validated version, not the last one")
    which.add_argument("--version", type=int, metavar="N", help="a version of versions/")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of --merged (default: the base's)")
    parser.add_argument("--evaluation", metavar="RUN", help="run with the card's metrics (default: found)")
    parser.add_argument("--push", metavar="OWNER/NAME", help="also send it to the hub, with HF_TOKEN")
    parser.add_argument("--public", action="store_true", help="of --push: a repository that all can see")
    parser.add_argument("--check", action="store_true", help="print what would be written as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.dtype is not None and options.merged is None:
        parser.error("--dtype belongs to --merged; an adapter is float32")
    if options.public and options.push is None:
        parser.error("--public belongs to --push OWNER/NAME")
    return options


def _asked(options: Namespace, adapter: RunAdapter, measured: Measured | None) -> dict[str, str | None]:
    """Identity of an export; without anything that only this machine knows, because it is published."""
    return {
        "kind": "adapter" if options.adapter is not None else "merged",
        "adapter": adapter.which,
        "adapter_sha256": adapter.sha256,
        "dtype": options.dtype,
        "evaluation": None if measured is None else measured.run.name,
    }


def _export(
    options: Namespace,
    target: Path,
    adapter: RunAdapter,
    measured: Measured | None,
    asked: dict[str, str | None],
) -> None:
    """Writes the directory, whole or not at all. ConfigError where it cannot be made."""
    from polyray.runs.atomic import atomic_directory
    from polyray.shelf.export.record import seal_export

    with ExitStack() as stack:
        try:
            directory = stack.enter_context(atomic_directory(target))
        except OSError as error:
            raise ConfigError(
                f"{target} cannot be made ({error.strerror or error}: {error.filename}); give a directory below one "
                "that you may write to"
            ) from None
        if options.adapter is not None:
            _write_adapter(adapter, measured, directory)
        else:
            _write_merged(adapter, measured, directory, options.dtype)
        seal_export(directory, asked)


def _write_adapter(adapter: RunAdapter, measured: Measured | None, directory: Path) -> None:
    from polyray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
    from polyray.models.base_files import MANIFEST
    from polyray.runs.atomic import atomic_write_bytes, atomic_write_json

    atomic_write_bytes(directory / WEIGHTS_FILE, adapter.content)
    # PEFT finds a base by its name; a directory of this machine would not exist elsewhere.
    base_name = None if adapter.on_merged_base else adapter.base_name
    atomic_write_json(directory / CONFIG_FILE, adapter.config | {"base_model_name_or_path": base_name})
    atomic_write_json(directory / MANIFEST, adapter.manifest)
    _write_card(adapter, measured, None, directory)


def _write_merged(adapter: RunAdapter, measured: Measured | None, directory: Path, dtype: str | None) -> None:
    from polyray.models.adapter_files import read_adapter
    from polyray.models.base import resolve_base
    from polyray.shelf.export.merging import write_manifest, write_merged

    base = resolve_base(adapter.model)
    read_adapter(adapter.directory, base.sha256)  # refuses another base
    merged = write_merged(base.directory, adapter.content, adapter.config, directory, dtype)
    write_manifest(directory, adapter.manifest["base_sha256"], adapter.sha256)
    _write_card(adapter, measured, merged, directory)


def _write_card(
    adapter: RunAdapter,
    measured: Measured | None,
    merged: Merged | None,
    directory: Path,
) -> None:
    from polyray.models.base_files import local_model_dir
    from polyray.runs.atomic import atomic_write_text
    from polyray.runs.run_directory import RunPaths
    from polyray.shelf.export.model_card import CardFacts, model_card
    from polyray.shelf.export.run_adapters import last_line, licence_in

    last_step = last_line(RunPaths(adapter.run).metrics)
    licence = licence_in(local_model_dir(adapter.model))
    facts = CardFacts(adapter, licence, measured, merged, last_step)
    atomic_write_text(directory / "README.md", model_card(facts))


def _print_check(options: Namespace, target: Path, adapter: RunAdapter, measured: Measured | None) -> int:
    plan = {
        "job": "export",
        "kind": "adapter" if options.adapter is not None else "merged",
        "target": str(target),
        "adapter": str(adapter.directory),
        "adapter_sha256": adapter.sha256,
        "base": adapter.model.path,
        "evaluation": None if measured is None else f"{measured.run} ({measured.arm})",
        "push": options.push,
    }
    print(json.dumps(plan, indent=2))
    return EXIT_OK
