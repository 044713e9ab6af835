"""Inside the child, default mode: results of the source reach the tests as builtin or numpy values only.

A function of the source is called through a guard, which rebuilds a result from builtin types by their own methods:
an `int` whose class overrides `__eq__` is compared as the number that it holds. An object of any other class is
refused, no matter what its operators, its metaclass or its `__class__` claim: types are told by identity, and by
flags that Python code cannot set. Items of iterators are guarded as they come, and arguments that a call has changed
afterwards.

The guard shares its memory with the source, which reaches it through frames. `split.py` stops that as well.
"""

from __future__ import annotations

import builtins
import sys
from collections import deque
from typing import Any

__builtins__ = dict(vars(builtins))
"""Functions defined below look their builtins up here: the source may change the others."""

_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8
"""CPython's type flags: a class statement makes a heap type that is not immutable."""
_FLAGS, _DICT, _MRO = (type.__dict__[name].__get__ for name in ("__flags__", "__dict__", "__mro__"))


def _ids(*kinds: type) -> frozenset[int]:
    """Identities of types: a metaclass may claim that its class equals any other, but not fake its identity."""
    return frozenset(id(kind) for kind in kinds)


_MODULE = type(sys)
_SCALARS = _ids(type(None), bool, int, float, complex, str, bytes, range, type(...))
_FUNCTIONS = _ids(type(_ids), type(len), type(_ids.__get__(0)))
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_CONTAINERS = _ids(*_SEQUENCES, dict)
_NUMBERS_AND_TEXTS: tuple[Any, ...] = (int, float, complex, str, bytes, bytearray)
_VIEWS = frozenset(f"{kind}_{part}" for kind in ("dict", "odict") for part in ("keys", "values", "items"))
_DATES = frozenset(("date", "datetime", "time", "timedelta"))
_NUMERIC = frozenset("biufcSUmM")


class NotPlain(TypeError):
    """A result that is neither a builtin nor a numpy value."""


def plain(value: Any) -> Any:
    """The value rebuilt from builtin and numpy types. Raises NotPlain for any other."""
    kind = type(value)
    if id(kind) in _SCALARS:
        return value
    if id(kind) in _FUNCTIONS:
        return guarded(value)
    container = kind if id(kind) in _CONTAINERS else _base_in(kind, (*_SEQUENCES, dict))
    if container is dict:
        return {plain(key): plain(item) for key, item in dict.items(value)}
    if container is not None:
        items = [plain(item) for item in container.__iter__(value)]
        return items if container is list else container(items)
    if _is_builtin(kind):
        return _builtin_value(value, kind)
    for base in _MRO(kind):
        if _is_builtin(base) and (base.__module__, base.__name__) == ("numpy", "ndarray"):
            return _array(base.view(value, base))
    base = _base_in(kind, _NUMBERS_AND_TEXTS)
    if base is not None:
        return base.__add__(value, base())
    raise _refusal(kind)


def _base_in(kind: type, bases: tuple[Any, ...]) -> Any:
    """The first of these types that `kind` inherits from; None where it does not."""
    mro = _ids(*_MRO(kind))
    return next((base for base in bases if id(base) in mro), None)


def guarded(function: Any) -> Any:
    """A function that calls `function` and returns its plain result."""

    def call(*arguments: Any, **named: Any) -> Any:
        given = [each for each in (*arguments, *named.values()) if id(type(each)) in _CONTAINERS]
        kept = [each for each in given if _is_plain(each)]
        result = plain(function(*arguments, **named))
        for each in kept:
            if not _is_plain(each):
                _restore(each)
        return result

    return call


def guard_names(namespace: dict[str, Any], used: frozenset[str]) -> dict[str, Any]:
    """A copy of the namespace in which the names that the tests use are guarded."""
    names = dict(namespace)
    for name in used & names.keys():
        value = names[name]
        if str.startswith(name, "__") or type(value) is _MODULE or _is_plain(value):
            continue
        try:
            names[name] = plain(value)
        except NotPlain:
            can_call = any("__call__" in _DICT(base) for base in _MRO(type(value)))
            names[name] = guarded(value) if can_call else Refused(type(value))
    return names


class Shared:
    """Local names of the tests' module: what they define is defined for the source, too."""

    def __init__(self, names: dict[str, Any], namespace: dict[str, Any]) -> None:
        self._names, self._namespace = names, namespace

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._names[name] = self._namespace[name] = value

    def __delitem__(self, name: str) -> None:
        del self._names[name]
        self._namespace.pop(name, None)


class Refused:
    """Placeholder of a value of the source that is not plain: a use raises NotPlain."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type) -> None:
        object.__setattr__(self, "_kind", kind)

    def _refuse(self, *_: Any) -> Any:
        raise _refusal(object.__getattribute__(self, "_kind"))

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __getattr__ = __setattr__ = _refuse
    __hash__ = object.__hash__


def _is_builtin(kind: type) -> bool:
    """Whether no class statement made the type."""
    flags = _FLAGS(kind)
    return not flags & _HEAP_TYPE or bool(flags & _IMMUTABLE_TYPE)


def _builtin_value(value: Any, kind: type) -> Any:
    """A value of a type that is written in C."""
    module, name = kind.__module__, kind.__name__
    if kind is bytearray:
        return value
    if module == "numpy":
        if name == "ndarray":
            return _array(value)
        if _is_numeric(value):
            return value
        raise _refusal(kind)
    if module in ("builtins", "itertools") and "__next__" in _DICT(kind):
        return map(plain, value)
    if kind is slice:
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    if name in _VIEWS:
        items = [plain(item) for item in value]
        return items if name.endswith("values") else dict.fromkeys(items).keys()
    if kind is type and _is_builtin(value):
        return value
    is_date = module == "datetime" and name in _DATES and getattr(value, "tzinfo", None) is None
    is_match = (module, name) == ("re", "Match") and id(type(value.string)) in _SCALARS
    if is_date or is_match or (module, name) == ("decimal", "Decimal"):
        return value
    raise _refusal(kind)


def _array(value: Any) -> Any:
    """An exact ndarray; one of objects where all of them are plain."""
    if not _is_numeric(value) and not _is_plain(value.tolist()):
        raise _refusal(type(value))
    return value


def _is_numeric(value: Any) -> bool:
    """Whether a numpy value holds numbers, texts or times and no objects."""
    return hasattr(value, "tobytes") and value.dtype.kind in _NUMERIC


def _is_plain(value: Any) -> bool:
    """Whether nothing about a value has to be rebuilt or refused."""
    kind = type(value)
    if id(kind) in _SCALARS or kind is bytearray:
        return True
    if kind is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if id(kind) in _CONTAINERS:
        return all(_is_plain(item) for item in value)
    return _is_builtin(kind) and kind.__module__ == "numpy" and _is_numeric(value)


def _restore(argument: Any) -> None:
    """Rebuilds in place what a call has put into an argument. Raises NotPlain."""
    if type(argument) is tuple:
        for item in argument:
            _restore(item)
    elif type(argument) in (list, dict, set, deque):
        rebuilt = plain(argument)
        argument.clear()
        argument.update(rebuilt) if type(argument) in (dict, set) else argument.extend(rebuilt)


def _refusal(kind: type) -> NotPlain:
    return NotPlain(
        f"results are compared as builtin and numpy values; the source gave a {type.__repr__(kind)}"
    )
