"""Measures the structure of the source: lines, files, configuration fields, two-way package pairs, cycles.

    python -m benchmarks.structure [DIRECTORY]   DIRECTORY: a checkout (default: this one)

`train_lines` counts the modules that a training command can reach by imports, lazy ones included. The route of a
configuration is measured by `python -m benchmarks.walk`.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCES = ("polyray", "jobs", "services", "benchmarks")
ENTRIES = ("polyray.cli.train", "jobs.train")
Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Module name -> file."""
    found: dict[str, Path] = {}
    for path in (path for folder in SOURCES for path in (root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(files: dict[str, Path]) -> Graph:
    """Module -> modules that its import statements name anywhere."""
    graph: Graph = {}
    for name, path in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= members & files.keys()
                named |= {node.module} if members - files.keys() else set()
        graph[name] = (named & files.keys()) - {name}
    return graph


def two_way_pairs(graph: Graph) -> list[str]:
    """Pairs of packages that import each other."""
    edges = {
        (package_of(importer), package_of(imported))
        for importer, named in graph.items()
        for imported in named
    }
    return sorted(f"{a}/{b}" for a, b in edges if a < b and (b, a) in edges)


def package_of(module: str) -> str:
    """`polyray.rollout.worker` -> `polyray.rollout`; the package itself for a door."""
    return ".".join(module.split(".")[: 2 if module.startswith("polyray.") else 1])


def has_cycle(graph: Graph) -> bool:
    """Whether the graph has a cycle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


def reachable(graph: Graph, entries: Iterable[str]) -> set[str]:
    """Modules that the entries import, directly or not."""
    seen: set[str] = set()
    waiting = [entry for entry in entries if entry in graph]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def config_fields(files: dict[str, Path]) -> int:
    """Annotated fields of the classes in polyray/config."""
    trees = [ast.parse(path.read_text("utf-8")) for name, path in files.items() if "polyray.config" in name]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return sum(isinstance(line, ast.AnnAssign) for node in classes for line in node.body)


def lines_of(paths: Iterable[Path]) -> int:
    """Lines of all files."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def measure(root: Path) -> dict[str, int | bool | list[str]]:
    """All figures of a checkout."""
    files = modules(root)
    graph = import_graph(files)
    tests = list((root / "tests").rglob("*.py"))
    loop = [
        path for name, path in files.items() if package_of(name) in ("polyray.orchestrator", "polyray.actors")
    ]
    return {
        "source_lines": lines_of(files.values()),
        "source_files": len(files),
        "train_lines": lines_of(files[name] for name in reachable(graph, ENTRIES)),
        "test_lines": lines_of(tests),
        "config_fields": config_fields(files),
        "two_way_pairs": two_way_pairs(graph),
        "import_cycle": has_cycle(graph),
        "orchestrator_files": len(loop),
        "engine_lines": lines_of(
            path for name, path in files.items() if package_of(name) == "polyray.rollout"
        ),
        "readme_lines": lines_of([root / "README.md"]),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1] if len(sys.argv) > 1 else ".")), indent=2))
