"""`python -m jobs`: one line per job, read from the files themselves, so that nothing heavy is imported."""

from __future__ import annotations

import ast
from pathlib import Path

from jobs.cli import REPOSITORY_ROOT, run

NOT_A_JOB = {"__init__", "__main__", "cli"}


def list_jobs(directory: Path) -> dict[str, str]:
    """Job name -> first line of its docstring, for every module and package in `directory`."""
    files = [path for path in sorted(directory.glob("*.py")) if path.stem not in NOT_A_JOB]
    entries = {path.stem: path for path in files if not path.stem.startswith("_")}
    entries |= {path.parent.name: path for path in directory.glob("*/__main__.py")}
    return {name: _first_line(entries[name]) for name in sorted(entries)}


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


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
