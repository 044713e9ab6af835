"""A reward function that the user gave in Python: what identifies it, and how a replica gets it.

    Identity().of(function)       on the driver: sha256 of its code and of all that it refers to
    cached_functions_by_value()   on the driver: how functions under lru_cache are pickled
    offer(sha256, pickled)        on the driver: keeps the function's pickle for the runs of this process
    offered_function(spec)        on the driver: the pickle of a configuration's function
    load_function(spec, pickled)  in a replica

A configuration holds the name and the sha256 only. The pickle travels in memory, from the driver to the run's own
replicas, and is in no file of a run: nothing is ever unpickled from a file.
"""

from __future__ import annotations

import base64
import copyreg
import dis
import functools
import hashlib
import inspect
import pickle
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyray.config.reward import CallableRewardSpec
from polyray.errors import ConfigError, RewardError, boundary
from polyray.rewards.python_function import LoadedFunction
from polyray.rewards.sibling_modules import INSTALLED

MAX_PICKLE_MIB = 16
"""Limit of a pickled function: replicas get it with their settings."""
_ATOMS = (type(None), bool, int, float, complex, str, type(...), type(NotImplemented))
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_OF_EVERY_CLASS = (
    "__dict__",
    "__weakref__",
    "__module__",
    "__firstlineno__",
    "__abstractmethods__",
    "_abc_impl",
)
_BY_NAME = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
OURS = str(Path(__file__).resolve().parents[1])
_OFFERED: dict[str, str] = {}


def offer(sha256: str, pickled: bytes) -> None:
    """Keeps a pickled function for configurations that name its sha256. Raises ConfigError where it is too large."""
    if len(pickled) > MAX_PICKLE_MIB * 2**20:
        raise ConfigError(
            f"the reward function is {len(pickled) / 2**20:.1f} MiB with the data that it refers to, above the "
            f"limit of {MAX_PICKLE_MIB} MiB; read large data from a file inside the function"
        )
    _OFFERED[sha256] = base64.b64encode(pickled).decode()


def offered_function(spec: CallableRewardSpec) -> str:
    """The pickle as text. Raises ConfigError where this process was not given the function."""
    if spec.sha256 not in _OFFERED:
        raise ConfigError(
            f"reward.type=callable: the function {spec.name} (sha256 {spec.sha256[:12]}) was given in Python and is "
            f"not in this process; pass reward={spec.name.rpartition('.')[2]} to polyray.train or polyray.evaluate, "
            "or write it to a file and set reward.type=python reward.path=FILE.py:FUNCTION"
        )
    return _OFFERED[spec.sha256]


def load_function(spec: CallableRewardSpec, text: str) -> LoadedFunction:
    """The function from its pickle. Raises RewardError where it cannot be loaded here."""
    with boundary(RewardError, f"reward function {spec.name} cannot be loaded where completions are scored"):
        function = pickle.loads(base64.b64decode(text))
    code = getattr(inspect.unwrap(function), "__code__", None)
    return LoadedFunction(function, spec.name, "" if code is None else code.co_filename, spec.sha256[:12])


class Identity:
    """Hashes of Python objects by content: equal for the same source, in any process of one Python version.

    Line numbers and file names do not count, because a notebook changes them whenever a cell runs. A function of an
    installed package counts by its name.
    """

    def __init__(self) -> None:
        self.modules: dict[str, types.ModuleType] = {}
        """Modules of the user's own with functions or classes in use, to be pickled by value."""
        self._known: dict[int, tuple[object, str]] = {}  # the object is kept, or its id would be used again

    def of(self, value: object) -> str:
        """Hash of any object. Raises TypeError for one that cannot be pickled, e.g. a lock."""
        if type(value) in _ATOMS:
            return _sha256([type(value).__name__, repr(value)])
        if id(value) not in self._known:
            self._known[id(value)] = value, "cycle"
            self._known[id(value)] = value, _sha256([type(value).__qualname__, *self._parts(value)])
        return self._known[id(value)][1]

    def _parts(self, value: Any) -> Iterator[str]:
        """Hashes and names of everything that `value` consists of."""
        if isinstance(value, bytes | bytearray):
            yield hashlib.sha256(value).hexdigest()
        elif isinstance(value, types.ModuleType):
            yield value.__name__
            if not _is_installed(value.__name__) and getattr(value, "__file__", None):
                yield self.of(Path(str(value.__file__)).read_bytes())
        elif isinstance(value, _BY_NAME):
            yield value.__qualname__
            yield self.of(value.__self__) if isinstance(value, types.BuiltinFunctionType) else ""
        elif isinstance(value, types.FunctionType | type) and _is_installed(value.__module__):
            yield f"{value.__module__}.{value.__qualname__}"
        elif type(value) in (list, tuple, set, frozenset, dict, types.MappingProxyType):
            yield from self._of_container(value)
        elif isinstance(value, types.CodeType):
            yield from self._of_code(value)
        elif isinstance(value, types.FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, type):
            yield from self._of_class(value)
        elif isinstance(value, types.MethodType):
            yield from (self.of(value.__func__), self.of(value.__self__))
        elif isinstance(value, staticmethod | classmethod):
            yield self.of(value.__func__)
        elif isinstance(value, property):
            yield from (self.of(value.fget), self.of(value.fset), self.of(value.fdel))
        elif isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
            yield value.__name__
        else:
            yield from self._reduced(value)

    def _of_container(self, value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            yield from (self.of(part) for item in value.items() for part in item)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(self.of, value))
        else:
            yield from map(self.of, value)

    def _of_code(self, code: types.CodeType) -> Iterator[str]:
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        yield from (self.of(part) for part in (code.co_code, code.co_consts, counts, *names))
        yield self.of(getattr(code, "co_exceptiontable", b""))

    def _of_function(self, function: types.FunctionType) -> Iterator[str]:
        self._note_module(function.__module__)
        yield self.of(function.__code__)
        yield from (
            self.of(part) for part in (function.__defaults__, function.__kwdefaults__, function.__dict__)
        )
        for cell in function.__closure__ or ():
            yield self.of(_contents(cell))
        for name in sorted(set(_global_names(function.__code__)) & function.__globals__.keys()):
            yield from (name, self.of(function.__globals__[name]))

    def _of_class(self, found: type) -> Iterator[str]:
        self._note_module(found.__module__)
        yield found.__qualname__
        yield self.of(found.__bases__)
        for name, member in sorted(vars(found).items()):
            if name not in _OF_EVERY_CLASS:
                yield from (name, self.of(member))

    def _reduced(self, value: Any) -> Iterator[str]:
        """Identity of a value by the parts that pickle would save."""
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        module = getattr(value, "__module__", None)
        if isinstance(reduced, str) and module is not None and not _is_installed(module):
            raise TypeError(f"{module}.{reduced} is pickled by its name, and a replica has no such name")
        parts: tuple[Any, ...] = (reduced,) if isinstance(reduced, str) else reduced
        for part in parts:
            yield self.of(list(part) if isinstance(part, Iterator) else part)

    def _note_module(self, name: str | None) -> None:
        if name is not None and name != "__main__" and name in sys.modules:
            self.modules[name] = sys.modules[name]


@contextmanager
def cached_functions_by_value() -> Iterator[None]:
    """Pickles the user's functions under functools.lru_cache with their code, and without their cache."""
    kind = type(functools.lru_cache(len))
    copyreg.pickle(kind, _reduced_cache)
    try:
        yield
    finally:
        del copyreg.dispatch_table[kind]


def _reduced_cache(cached: Any) -> Any:
    if _is_installed(cached.__module__):
        return cached.__reduce__()
    return _cached, (cached.__wrapped__, cached.cache_parameters())


def _cached(function: Any, parameters: Mapping[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _is_installed(module: str | None) -> bool:
    """Whether a replica can import a module: one of Python's, of polyray, or of an installed package."""
    found = None if module in (None, "__main__") else sys.modules.get(str(module))
    if found is None or getattr(found, "__spec__", None) is None:
        return False
    file = getattr(found, "__file__", None)
    return file is None or file.startswith((*INSTALLED, OURS))


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from (found.argval for found in dis.get_instructions(code) if found.opname in _GLOBALS)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    """Empty for a variable that has no value yet."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _sha256(parts: Iterable[str]) -> str:
    text = "\0".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
