"""No file imports itself in a circle, lazy and type-checking imports included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("polyray", "services", "jobs", "benchmarks")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(root: Path, folders: tuple[str, ...]) -> dict[str, set[str]]:
    """Module -> modules that its file names in an import statement anywhere."""
    files = {module_name(path, root): path for folder in folders for path in (root / folder).rglob("*.py")}
    graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*parents, *([node.module] if node.module else [])])
                members = {f"{base}.{alias.name}" for alias in node.names}
                found |= members & files.keys()
                if members - files.keys():
                    found.add(base)
        graph[name] = (found & files.keys()) - {name}
    return graph


def check_no_cycle(graph: dict[str, set[str]]) -> None:
    """Raises AssertionError that names one circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("import cycle: " + " <- ".join(error.args[1])) from None


def test_import_graph_of_the_repository_has_no_cycle() -> None:
    graph = import_graph(ROOT, FOLDERS)
    assert len(graph) > 500 and "polyray.rewards.base" in graph["polyray.rewards"]
    check_no_cycle(graph)


@pytest.mark.parametrize(
    "source",
    [
        "from package.first import name",
        "import package.first",
        "from . import first",
        "from .first import name",
        "def later():\n    from package.first import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.first import name",
    ],
)
def test_import_graph_finds_a_cycle_however_it_is_written(tmp_path: Path, source: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from package.second import other\n")
    (package / "second.py").write_text("import json\n")
    check_no_cycle(import_graph(tmp_path, ("package",)))
    (package / "second.py").write_text(source)
    with pytest.raises(AssertionError, match=r"package\.first"):
        check_no_cycle(import_graph(tmp_path, ("package",)))
