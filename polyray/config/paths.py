"""The types of fields that name files and directories: made absolute where a configuration is built.

A relative path is relative to the directory in which the command is run, and `~` is the user's home. An absolute path
means the same file in every process, so workers and replicas need no working directory of their own.

    FilePath        a file or a directory
    BuiltinOrPath   the same, or `builtin`
    NameOrPath      a directory, or a name: of a hub, or one that polyray knows (embedded, smollm2, packaged, auto)
    FunctionPath    FILE.py:FUNCTION
    UrlOrPath       a URL; a SQLite file in one is a path

A path below configs/ that does not exist means the shipped file of that name, so shipped configurations are found
from any directory. A clone has them at its top, an installed wheel inside the package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

NAMES = ("builtin", "packaged", "embedded", "smollm2", "auto")
"""Values of NameOrPath that are never a directory."""
SQLITE_FILE = "sqlite:///"
"""URL prefix of a SQLite path; with a further slash the path is absolute."""
MEMORY = ":memory:"
SHIPPED = "configs/"
_PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY_ROOT = None if (_PACKAGE / SHIPPED).is_dir() else _PACKAGE.parent
"""Clone that polyray is imported from; None for an installed wheel."""
SHIPPED_ROOT = REPOSITORY_ROOT or _PACKAGE
"""Parent of the shipped configs/."""

_base: ContextVar[str | None] = ContextVar("base_dir", default=None)


def import_path() -> dict[str, str]:
    """PYTHONPATH with which other processes import this clone; empty for an installed wheel."""
    return {} if REPOSITORY_ROOT is None else {"PYTHONPATH": str(REPOSITORY_ROOT)}


def put_root_on_path() -> None:
    """Puts a clone first on PYTHONPATH, for the processes that Ray starts from this one."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    for name, root in import_path().items():
        os.environ[name] = os.pathsep.join([root, *(path for path in paths if path != root)])


def base_dir() -> str:
    """The directory that relative paths are relative to: the process's own, or that of `relative_to`."""
    return _base.get() or os.getcwd()


@contextmanager
def relative_to(directory: str) -> Iterator[None]:
    """Inside, configurations are built as if the command had been run in `directory`."""
    token = _base.set(directory)
    try:
        yield
    finally:
        _base.reset(token)


def absolute(text: str) -> str:
    """`text` as an absolute path; a URL and an empty text stay."""
    if not text or "://" in text:
        return text
    path = os.path.normpath(os.path.join(base_dir(), os.path.expanduser(text)))
    shipped = SHIPPED_ROOT / text
    if text.startswith(SHIPPED) and not os.path.exists(path) and shipped.exists():
        path = str(shipped)
    return path


def _builtin_or_path(text: str) -> str:
    return text if text == "builtin" else absolute(text)


def _name_or_path(text: str) -> str:
    if text in NAMES:
        return text
    is_path = text.startswith(("/", "~", "./", "../")) or os.path.exists(os.path.join(base_dir(), text))
    return absolute(text) if is_path else text


def _function(text: str) -> str:
    file, colon, function = text.rpartition(":")
    return f"{absolute(file)}{colon}{function}" if file else text


def _url_or_path(text: str) -> str:
    file = text.removeprefix(SQLITE_FILE)
    if file == text:
        return _name_or_path(text)
    return text if not file or file.startswith(("/", MEMORY, "file:")) else f"{SQLITE_FILE}{absolute(file)}"


FilePath = Annotated[str, AfterValidator(absolute)]
BuiltinOrPath = Annotated[str, AfterValidator(_builtin_or_path)]
NameOrPath = Annotated[str, AfterValidator(_name_or_path)]
FunctionPath = Annotated[str, AfterValidator(_function)]
UrlOrPath = Annotated[str, AfterValidator(_url_or_path)]

VALIDATORS = frozenset({absolute, _builtin_or_path, _name_or_path, _function, _url_or_path})
"""Validators that mark a field as one of these types."""
