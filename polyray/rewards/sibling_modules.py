"""Modules beside a reward file: the ones it imports, made importable in the service.

A finder of Python's import system maps their names to their files, so other directories on the import path of a
replica do not matter, e.g. the directory of an earlier job. A module beside the file is refused if its name already
means one of the standard library, of an installed package or of another reward's folder.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

from polyray.errors import ConfigError, PolyrayError

INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class SiblingFinder(MetaPathFinder):
    """Finds the modules beside the reward files of this process."""

    def __init__(self) -> None:
        self.places: dict[str, Path] = {}
        """Top-level name -> file."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        place = self.places.get(fullname)
        if place is None:
            return None
        inside = [str(place.parent)] if place.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(fullname, place, submodule_search_locations=inside)


FINDER = SiblingFinder()


def siblings(file: str, tree: ast.Module) -> dict[str, Path]:
    """Module name -> its file, for every module beside `file` that `tree` imports.

    Imports inside functions count, and so do imports of these modules themselves.
    """
    found: dict[str, Path] = {}
    trees = [tree]
    while trees:
        for name in _imported(ast.walk(trees.pop())):
            place = _beside(Path(file).parent, name)
            if place is not None and name not in found:
                found[name] = place
                trees += _parsed_or_nothing(place)
    return found


def _beside(folder: Path, name: str) -> Path | None:
    places = (folder / f"{name}.py", folder / name / "__init__.py")
    return next((place for place in places if place.is_file()), None)


def _parsed_or_nothing(place: Path) -> list[ast.Module]:
    """Python names the mistake in a module that cannot be parsed when it is imported."""
    try:
        return [ast.parse(place.read_bytes())]
    except (SyntaxError, ValueError):
        return []


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
    texts = []
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    for name, place in sorted(siblings(file, tree).items()):
        _refuse_another(file, name, place, error)
        FINDER.places[name] = place
        for loaded in [known for known in sys.modules if known.partition(".")[0] == name]:
            del sys.modules[loaded]
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
    origin = "another module" if found is None or found.origin is None else found.origin
    is_taken = name in sys.modules or name in FINDER.places or origin.startswith(INSTALLED)
    if (
        found is not None and is_taken and not _is_same(Path(origin), place)
    ) or name in sys.stdlib_module_names:
        raise error(
            f"{where} imports {name}, which means {origin} here and not {place}; give the module beside the file "
            "another name"
        )


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # loaded in a way that has no spec
        return None


def _is_same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()
