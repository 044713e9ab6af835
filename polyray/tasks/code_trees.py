"""Canonical syntax tree of a program: names, comments and layout do not count.

    canonical_tree(source) -> Tree    the same for programs that differ in names, docstrings, annotations
    tree_distance(a, b)    -> [0, 1]  edit distance of two trees over the size of the larger one

Pure; nothing is executed. Called by code.py for classes and distances.
"""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_SEQUENCE = 4096
"""Nodes of a tree that the sequence distance looks at, from the front."""

_DROPPED_FIELDS = frozenset(
    {
        "annotation",
        "returns",
        "type_comment",
        "type_ignores",
        "type_params",
        "ctx",
        "kind",
        "simple",
        "asname",
    }
)
_GROUPED_FIELDS = frozenset({"orelse", "finalbody", "handlers", "defaults", "kw_defaults", "decorator_list"})
"""Fields under a node of their own: otherwise `if a: b else: c` would equal `if a: b; c`."""
_TOLD_APART = {
    ast.Slice: ("lower", "upper", "step"),
    ast.arguments: ("posonlyargs", "vararg", "kwonlyargs", "kwarg"),
}
"""Fields that may be absent beside others of the same kind: their nodes' labels begin with the field."""
_OPERATORS = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


@dataclass(frozen=True, slots=True)
class Tree:
    """A labelled, ordered tree.

    Example:
        Tree("BinOp Add", (Tree("Name 0"), Tree("Constant 1")))  # x + 1
    """

    label: str
    children: tuple[Tree, ...] = ()

    @property
    def name(self) -> str:
        """The label, under the name that apted reads."""
        return self.label

    def labels(self) -> list[str]:
        """All labels, a node before its children."""
        labels: list[str] = []
        waiting: list[Tree] = [self]
        while waiting:
            node = waiting.pop()
            labels.append(node.label)
            waiting.extend(reversed(node.children))
        return labels

    def key(self) -> str:
        """Text that is equal for equal trees only."""
        parts: list[str] = []
        waiting: list[Tree | None] = [self]
        while waiting:
            node = waiting.pop()
            if node is None:
                parts.append(")")
                continue
            parts.append(f"({node.label}")
            waiting.append(None)
            waiting.extend(reversed(node.children))
        return "".join(parts)


@functools.lru_cache(maxsize=4096)
def canonical_tree(source: str) -> Tree | None:
    """The tree of a program, None where it cannot be parsed.

    Names that the program binds become numbers in order of appearance; builtins, imports, attributes and
    constants stay. Docstrings, annotations and imports of `typing` are dropped.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the program's own, e.g. invalid escapes
            module = ast.parse(source)
        return _Canonical(module).tree(module)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def tree_distance(first: Tree, second: Tree, max_nodes: int = 150) -> float:
    """Edit distance (insert, delete, relabel: 1 each) over the larger number of nodes, at most 1.

    A pair with a tree of more than `max_nodes` nodes is compared by the Levenshtein distance of the labels in
    order instead, which is never larger and takes milliseconds.
    """
    if first == second:
        return 0.0
    a, b = sorted((first, second), key=Tree.key)  # the result must not depend on the order
    return _distance(a, b, max_nodes)


@functools.lru_cache(maxsize=16384)
def _distance(first: Tree, second: Tree, max_nodes: int) -> float:
    labels_a, labels_b = first.labels(), second.labels()
    size = max(len(labels_a), len(labels_b))
    if size > max_nodes:
        kept_a, kept_b = labels_a[:MAX_SEQUENCE], labels_b[:MAX_SEQUENCE]
        return min(1.0, levenshtein(kept_a, kept_b) / max(len(kept_a), len(kept_b)))
    from apted import APTED

    return min(1.0, APTED(first, second).compute_edit_distance() / size)


def levenshtein(first: list[str], second: list[str]) -> int:
    """Edit distance of two sequences of labels: insert, delete, replace cost 1 each."""
    numbers: dict[str, int] = {}
    a = [numbers.setdefault(label, len(numbers)) for label in first]
    b = np.array([numbers.setdefault(label, len(numbers)) for label in second], np.int64)
    columns = np.arange(len(b) + 1)
    row = columns
    for at, label in enumerate(a, start=1):
        diagonal = row[:-1] + (b != label)
        best = np.concatenate(([at], np.minimum(diagonal, row[1:] + 1)))
        row = np.minimum.accumulate(best - columns) + columns  # insertions: each costs 1 more than its left
    return int(row[-1])


def _bound_names(module: ast.Module) -> frozenset[str]:
    """Names that the program itself gives: functions, classes, parameters, variables; not imports."""
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
    return frozenset(names)


def _import_aliases(module: ast.Module) -> dict[str, str]:
    """`np` -> `numpy` for `import numpy as np`."""
    aliases = (node for node in ast.walk(module) if isinstance(node, ast.alias))
    return {alias.asname: alias.name for alias in aliases if alias.asname is not None}


class _Canonical:
    """Turns the nodes of one module into trees; holds the numbers of the names seen so far."""

    def __init__(self, module: ast.Module) -> None:
        self._bound = _bound_names(module)
        self._aliases = _import_aliases(module)
        self._numbers: dict[str, int] = {}

    def tree(self, node: ast.AST, renames_keyword: bool = False) -> Tree:
        """The tree of a node; `renames_keyword`: a keyword of a call of one of the program's own functions."""
        if isinstance(node, ast.keyword) and not renames_keyword:
            return Tree(f"keyword {node.arg}", (self.tree(node.value),))
        own_call = (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self._bound
        )
        label = ["Assign" if isinstance(node, ast.AnnAssign) else type(node).__name__]
        children: list[Tree] = []
        for field, value in self._fields(node):
            values = value if isinstance(value, list) else [value]
            if values and all(isinstance(value, _OPERATORS) for value in values):
                label.extend(type(value).__name__ for value in values)
            elif not isinstance(value, list | ast.AST):
                label.append(self._text(node, field, value))
            else:
                trees = tuple(self._element(value, own_call) for value in values)
                if field in _TOLD_APART.get(type(node), ()):
                    trees = tuple(Tree(f"{field} {tree.label}", tree.children) for tree in trees)
                if field in _GROUPED_FIELDS:
                    trees = (Tree(field, trees),) if trees else ()
                children.extend(trees)
        return Tree(" ".join(label), tuple(children))

    def _element(self, value: Any, own_call: bool) -> Tree:
        if isinstance(value, ast.AST):
            return self.tree(value, own_call)
        return Tree(self._name(value) if isinstance(value, str) else repr(value))

    def _text(self, node: ast.AST, field: str, value: Any) -> str:
        if isinstance(node, ast.Constant):
            return f"{type(value).__name__} {value!r}"
        is_name = field in ("id", "name", "arg", "rest") and not isinstance(node, ast.alias)
        return self._name(value) if is_name else str(value)

    def _name(self, name: str) -> str:
        if name not in self._bound:
            return self._aliases.get(name, name)
        return f"#{self._numbers.setdefault(name, len(self._numbers))}"

    @staticmethod
    def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
        for field, value in ast.iter_fields(node):
            if field in _DROPPED_FIELDS or (value is None and not isinstance(node, ast.Constant)):
                continue
            if field == "body" and isinstance(value, list):
                value = [statement for statement in value if not _says_nothing(statement)]
            yield field, value


def _says_nothing(statement: ast.stmt) -> bool:
    """Docstrings and other bare texts, `pass`, declarations without a value, imports for annotations."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.ImportFrom) and statement.module == "typing"
    )
