"""Writes the three files of a task of your own into DIR: prompts.jsonl, reward.py and train.yaml.

They are an example that runs; change them step by step. A file that exists is never overwritten.

  polyray init my-task            for the embedded model: runs at once, on CPU, without a download
  polyray init my-task --text     for a text model of the hub
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from polyray.cli.arguments import JobParser
from polyray.config.loader import read_value
from polyray.config.paths import SHIPPED_ROOT
from polyray.errors import EXIT_OK, ConfigError

TEMPLATES = SHIPPED_ROOT / "configs" / "own_task"
FILES = ("prompts.jsonl", "reward.py", "train.yaml")
PRETRAIN = "polyray pretrain configs/pretrain.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("init", __doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, help="created if it does not exist")
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--embedded", action="store_true", help="use the embedded model (the default)")
    models.add_argument("--text", action="store_true", help="use a text model")
    args = parser.parse_strictly(argv)
    template = TEMPLATES / ("text" if args.text else "embedded")
    for file in write(template, args.directory):
        print(f"wrote     {file}")
    name = read_value(args.directory / "train.yaml", (), "name")
    commands = [
        f"cd {shlex.quote(str(args.directory))}",
        *([] if args.text else [PRETRAIN]),
        "polyray train train.yaml --check",
        "polyray train train.yaml",
        f"polyray report runs/{name}",
    ]
    print("\n".join(["\nnext", *(f"  {command}" for command in commands)]))
    return EXIT_OK


def write(template: Path, directory: Path) -> list[Path]:
    """Copies the files of a template; returns the copies. Raises ConfigError before it would overwrite one."""
    texts = {directory / name: (template / name).read_text(encoding="utf-8") for name in FILES}
    for file in texts:
        if file.exists():
            raise ConfigError(f"{file} exists and is not overwritten; remove it, or give another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written: {error.strerror}; give another directory"
        ) from None
    return list(texts)
