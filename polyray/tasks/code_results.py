"""Whether the tests of a problem compare builtin and numpy values, judged by what its own code can make.

Pure. Called by code.py.
"""

from __future__ import annotations

import ast
import functools
import sys

CLASS_MAKERS = frozenset(("namedtuple", "make_dataclass", "new_class", "type"))
"""Functions that make classes; `type` only where it gets three arguments."""
OBJECT_MODULES = frozenset(
    ("array", "argparse", "ast", "contextvars", "ctypes", "dataclasses", "email", "enum", "fractions", "inspect",
     "ipaddress", "pathlib", "queue", "types", "unittest", "uuid", "weakref", "xml", "zoneinfo")
)  # fmt: skip
"""Modules of the standard library with objects that a solution may return."""


@functools.lru_cache(maxsize=4096)
def returns_values(source: str) -> bool:
    """False if the code defines a class or imports a module of OBJECT_MODULES; True if unparsable."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return not any(_makes_objects(node) for node in ast.walk(tree))


def _makes_objects(node: ast.AST) -> bool:
    if isinstance(node, ast.ClassDef):
        return True
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        return name in CLASS_MAKERS and (name != "type" or len(node.args) == 3)
    if isinstance(node, ast.Import):
        return any(_has_objects(alias.name) for alias in node.names)
    return isinstance(node, ast.ImportFrom) and _has_objects(node.module or "")


def _has_objects(module: str) -> bool:
    top = module.partition(".")[0]
    return top in OBJECT_MODULES or (top not in sys.stdlib_module_names and top != "numpy")
