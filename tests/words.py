"""Refuses docstrings that begin like a clause, and tests with a pronoun as subject; part of `make check`.

A docstring says what a thing is or does: "Newest version of a run", and not "What is newest". A test is named after
the thing it tests.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("polyray", "services", "jobs", "benchmarks", "tests", "configs", "requirements")
OPENINGS = frozenset({"What", "Who", "Whose", "Of", "Those", "Where", "Whoever", "Nobody"})
PRONOUNS = frozenset(
    {"he", "she", "it", "they", "we", "you", "i", "who", "what", "nobody", "somebody", "those"}
)
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def complaints(source: str, name: str) -> Iterator[str]:
    """One line per docstring or test name that is refused; `name` is the file's."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Documented):
            continue
        line = 1 if isinstance(node, ast.Module) else node.lineno
        opening = (ast.get_docstring(node) or "").split(maxsplit=1)[:1]
        if opening and opening[0].rstrip(",.:;") in OPENINGS:
            yield f"{name}:{line}: a docstring begins with {opening[0]!r}; name the thing, or say what it does"
        if not isinstance(node, ast.Module) and node.name.startswith("test_"):
            subject = node.name.split("_")[1]
            if subject in PRONOUNS:
                yield f"{name}:{line}: {node.name} has {subject!r} as its subject; name the thing it tests"


def main() -> int:
    """1 where anything is refused."""
    files = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    found = [
        line
        for file in files
        for line in complaints(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))
    ]
    print("\n".join(found) or f"{len(files)} files: every docstring names a thing, or says what it does")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
