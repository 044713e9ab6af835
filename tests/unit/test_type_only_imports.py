"""Imports for type checkers alone are never used at run time; no checker finds such a use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("polyray", "services", "jobs", "benchmarks")


def imported(nodes: list[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def type_only(tree: ast.Module) -> set[str]:
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {name for block in blocks for name in imported(block.body)}


def used_at_run_time(node: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) outside annotations, where no enclosing function imports the name itself."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = names - imported([inner for inner in ast.walk(node) if isinstance(inner, ast.stmt)])
        children: list[ast.AST] = [
            *node.decorator_list,
            *node.args.defaults,
            *filter(None, node.args.kw_defaults),
            *node.body,
        ]
    elif isinstance(node, ast.AnnAssign):
        children = [] if node.value is None else [node.value]
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Name) and node.id in names:
        yield node.lineno, node.id
    for child in children:
        yield from used_at_run_time(child, names)


def test_names_for_type_checkers_stay_in_annotations() -> None:
    wrong = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            uses = used_at_run_time(tree, type_only(tree))
            wrong += [f"{path.relative_to(ROOT)}:{line} {name}" for line, name in uses]
    assert not wrong


def test_use_at_run_time_is_found() -> None:
    source = """
if TYPE_CHECKING:
    from a import B, C, D
def f(x: B) -> C:
    y: D = 1
    from a import C
    return C(B(x))
"""
    tree = ast.parse(source)
    assert list(used_at_run_time(tree, type_only(tree))) == [(7, "B")]
