"""Modules beside a reward file: which it imports, and how they become importable where it runs.

The folder of the file is put at the end of the import path, so it hides nothing. A module beside the file whose name
already means another one, of the standard library or of another reward's folder, is refused.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from polyray.errors import ConfigError, PolyrayError


def siblings(file: str, tree: ast.Module) -> dict[str, Path]:
    """Module name -> its file, for every module beside `file` that `tree` imports, inside functions too."""
    folder = Path(file).parent
    found: dict[str, Path] = {}
    for name in _imported(ast.walk(tree)):
        for place in (folder / f"{name}.py", folder / name / "__init__.py"):
            if place.is_file():
                found.setdefault(name, place)
    return found


def check_imports(path: str, file: str, tree: ast.Module) -> None:
    """ConfigError for imports of `path` (FILE.py:FUNCTION) that would fail; nothing is executed.

    Imports inside functions and `try` are left to the run.
    """
    beside = siblings(file, tree)
    for name, place in beside.items():
        _refuse_another(f"reward.path={path!r}", name, place, ConfigError)
    for name in _imported(tree.body):
        if name not in beside and _spec(name) is None:
            raise ConfigError(
                f"reward.path={path!r} imports {name}, which is neither installed here nor a module beside the file; "
                "install it, or put it there"
            )


def make_importable(file: str, tree: ast.Module, error: type[PolyrayError]) -> str:
    """Lets the code of `file` import the modules beside it in this process; their text, for a version.

    A module that an earlier reward of the same folder has loaded is read anew. Raises `error` where a name means
    another module here.
    """
    folder, texts = str(Path(file).parent), []
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    for name, place in sorted(siblings(file, tree).items()):
        _refuse_another(file, name, place, error)
        sys.modules.pop(name, None)
        texts.append(place.read_text(encoding="utf-8"))
    return "".join(texts)


def _imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> list[str]:
    """Top-level names of the modules that these nodes import, each once."""
    names: dict[str, None] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0]: None for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names[node.module.partition(".")[0]] = None
    return list(names)


def _refuse_another(where: str, name: str, place: Path, error: type[PolyrayError]) -> None:
    found = _spec(name)
    if found is not None and (found.origin is None or not _is_same(Path(found.origin), place)):
        raise error(
            f"{where} imports {name}, which means {found.origin or 'another module'} here and not {place}; give the "
            "module beside the file another name"
        )


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # loaded in a way that has no spec
        return None


def _is_same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()
