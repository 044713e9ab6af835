"""Argument types that JSON cannot hold: tuples, sets and complex numbers in MBPP+'s inputs.

MBPP+ stores each problem's inputs as JSON and, beside them, the base inputs once more as Python asserts. The type
of an argument in the asserts is its type in all inputs. Pure; called by code_problems.py.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """Type of a value, and of its elements.

    Example:
        Shape(kind=tuple, elements=Shape(kind=None))  # (3, 4, 5)
    """

    kind: type | None
    """list, tuple, set, dict; float or complex where JSON holds text; None: as JSON says."""
    elements: Shape | None = None


_AS_IT_IS = Shape(None)


def typed_inputs(
    assertion: str, entry_point: str, base: Sequence[Any], plus: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """(base inputs, plus inputs) with the argument types that the asserts show; unchanged without asserts."""
    calls = _literal_calls(assertion, entry_point)
    shapes: list[Shape] = []
    for stored in base:
        for literal in calls:
            if _plain(literal) == _plain(stored):
                found = [_shape(text, value) for text, value in zip(stored, literal, strict=True)]
                shapes = [_merged(a, b) for a, b in zip(shapes, found, strict=True)] if shapes else found
                break
    if not shapes:
        return list(base), list(plus)
    for at in range(len(shapes)):
        if all(isinstance(arguments[at], int | float) for arguments in base):
            shapes[at] = Shape(complex)  # numbers everywhere: one that JSON holds as text is complex
    return (
        [_apply_all(shapes, arguments) for arguments in base],
        [_apply_all(shapes, arguments) for arguments in plus],
    )


def _literal_calls(assertion: str, entry_point: str) -> list[list[Any]]:
    """Arguments of every call of the function with literal arguments only."""
    try:
        tree = ast.parse(assertion)
    except SyntaxError:
        return []
    calls: list[list[Any]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == entry_point:
            try:
                calls.append([ast.literal_eval(argument) for argument in node.args])
            except ValueError:
                continue
    return calls


def _plain(value: Any) -> Any:
    """A value as JSON holds it; sets in a fixed order, complex numbers as text."""
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    if isinstance(value, set):
        return sorted((_plain(element) for element in value), key=repr)
    if isinstance(value, dict):
        return {str(key): _plain(element) for key, element in value.items()} if value else []
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, str):
        return _number_text(value)
    return value


def _number_text(text: str) -> Any:
    """Text that is a number, as `str` writes it: "0j" and "(1+2j)" are complex, "1.5" is a float."""
    for kind in (float, complex):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if kind is float else str(number)
    return text


def _shape(stored: Any, literal: Any) -> Shape:
    if isinstance(literal, list | tuple | set):
        inner = list(zip(stored, literal, strict=True)) if not isinstance(literal, set) else []
        elements = None
        for text, value in inner:
            found = _shape(text, value)
            elements = found if elements is None else _merged(elements, found)
        return Shape(type(literal), elements)
    if isinstance(literal, dict) and isinstance(stored, dict):
        elements = None
        for text, value in zip(stored.values(), literal.values(), strict=True):
            found = _shape(text, value)
            elements = found if elements is None else _merged(elements, found)
        return Shape(dict, elements)
    if isinstance(stored, str) and isinstance(literal, int | float | complex):
        return Shape(complex if isinstance(literal, complex) else float)
    return _AS_IT_IS


def _merged(first: Shape, second: Shape) -> Shape:
    """Merge two shapes: containers win over leaves; for two different containers JSON's list stays."""
    if first.kind is None or second.kind is None:
        return second if first.kind is None else first
    if first.elements is None or second.elements is None:
        elements = first.elements or second.elements
    else:
        elements = _merged(first.elements, second.elements)
    return Shape(first.kind if first.kind is second.kind else list, elements)


def _apply_all(shapes: Sequence[Shape], arguments: Sequence[Any]) -> list[Any]:
    return [
        _apply(shapes[at] if at < len(shapes) else _AS_IT_IS, value) for at, value in enumerate(arguments)
    ]


def _apply(shape: Shape, value: Any, inside: type | None = None) -> Any:
    """`value` with the types of `shape`; `inside` is the kind of the container around it."""
    if isinstance(value, list):
        elements = shape.elements or _AS_IT_IS
        if elements.kind is None and shape.kind is tuple and inside is tuple:
            elements = Shape(tuple)  # the asserts show tuples in tuples: deeper ones are tuples as well
        inner = [_apply(elements, element, shape.kind) for element in value]
        return shape.kind(inner) if shape.kind in (tuple, set) else inner
    if isinstance(value, dict):
        elements = shape.elements or _AS_IT_IS
        return {key: _apply(elements, element, dict) for key, element in value.items()}
    if isinstance(value, str) and shape.kind in (float, complex):
        with suppress(ValueError):  # a text after all
            return shape.kind(value)
    return value
