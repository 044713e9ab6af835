"""`python -m jobs`: one line per job, read from the files themselves, so that nothing heavy is imported."""

from __future__ import annotations

import ast
from pathlib import Path

from jobs.cli import REPOSITORY_ROOT, run


def list_jobs(directory: Path) -> dict[str, str]:
    """Job name -> first line of its docstring, for what in `directory` has a `main`."""
    files = {path.stem: path for path in directory.glob("*.py") if not path.stem.startswith("_")}
    files |= {path.parent.name: path for path in directory.glob("*/__main__.py")}
    trees = {name: ast.parse(files[name].read_text(encoding="utf-8")) for name in sorted(files)}
    return {name: _first_line(tree) for name, tree in trees.items() if _has_main(tree)}


def _has_main(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def main() -> int:
    """Prints the list."""
    jobs = list_jobs(REPOSITORY_ROOT / "jobs")
    width = max((len(name) for name in jobs), default=0)
    print("Jobs (python -m jobs.NAME --help explains one):\n")
    for name, line in jobs.items():
        print(f"  {name:{width}}  {line}")
    return 0


if __name__ == "__main__":
    run(main)
