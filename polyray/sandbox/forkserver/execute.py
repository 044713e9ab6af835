"""Inside the child, default mode: source and tests in one interpreter, as every reference evaluator runs them.

Consequence for trust: while the tests run, the source's code runs beside them with the same rights over the same
memory. The token is not in that memory until the tests have returned, the primitives that ask for it are bound
before the source runs, tracing, ctypes and walks over all objects are refused, and tests see
their own copy of the builtins and, in a guarded program, plain values in place of results (guard.py). A program that
imitates this file (asks for the token, reads it, returns it) is not stopped by any of that, nor is one that reads the
expected values out of its caller's frame, nor one that patches a library the tests use. `split.py` stops all three.
"""

from __future__ import annotations

import builtins
import os
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from types import CodeType
from typing import Any, NoReturn

from .guard import Shared, guard_names

CONTROL = 3
TOKEN_BYTES = 16
MODULE = "candidate"
SOURCE_NAME, TEST_NAME = "<source>", "<test>"
_MESSAGE_CHARS = 1000
_CHUNK = 1 << 20
_REFUSED = frozenset(
    (
        *("sys.settrace", "sys.setprofile", "sys.monitoring.register_callback", "sys._current_frames"),
        *(
            "sys._current_exceptions",
            "gc.get_objects",
            "gc.get_referrers",
            "gc.get_referents",
        ),
        *("ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle", "ctypes.cdata", "ctypes.cdata/buffer"),
        *("ctypes.call_function", "ctypes.addressof", "ctypes.string_at", "ctypes.wstring_at"),
    )
)


def run(guarded: bool) -> NoReturn:
    """Executes the program that the server sends, and proves that the tests returned.

    `guarded`: results of the source reach the tests as builtin and numpy values only.
    """
    write, read, leave, flush, execute = os.write, os.read, os._exit, sys.stdout.flush, exec
    failure, whatever = report, suppress(BaseException)
    namespace, pristine = new_module(), dict(builtins.__dict__)
    choose, guard, shared = test_namespace, guard_names, Shared
    try:
        source, test = read_texts(CONTROL)
        source_code = compile(source, SOURCE_NAME, "exec", dont_inherit=True)
        test_code = compile(test, TEST_NAME, "exec", dont_inherit=True)
        used = frozenset(names_in(test_code))
        refuse_dangers()
        execute(source_code, namespace)
        names = choose(namespace, pristine, used)
        if guarded:
            names = guard(names, used)
            execute(test_code, names, shared(names, namespace))  # pyright: ignore[reportArgumentType]
        else:
            execute(test_code, names)
    except BaseException as error:
        write(CONTROL, failure(error))
        leave(1)
    with whatever:  # a program may have closed its own stdout
        flush()
    write(CONTROL, b"D")
    write(CONTROL, read(CONTROL, TOKEN_BYTES))
    leave(0)


def read_texts(line: int) -> tuple[str, str]:
    """(source, test) as the server sends them: two lengths, then both."""
    sizes = struct.unpack("<QQ", read_exactly(line, 16))
    source, test = (read_exactly(line, size).decode("utf-8", "surrogatepass") for size in sizes)
    return source, test


def read_exactly(line: int, size: int) -> bytes:
    """`size` bytes. Raises EOFError where the other side is gone."""
    parts = []
    while size > 0:
        part = os.read(line, min(size, _CHUNK))
        if not part:
            raise EOFError("the line is closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def new_module() -> dict[str, Any]:
    """The namespace of an empty module that classes and pickles find under its name."""
    module = type(sys)(MODULE)
    sys.modules[MODULE] = module
    module.__dict__["__builtins__"] = builtins
    return module.__dict__


def refuse_dangers() -> None:
    """Installs a hook, which cannot be removed, against what no solution needs and forgeries use."""
    refused, dead = _REFUSED, ImportError

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in refused:
            raise dead(f"the sandbox refuses {event}")

    sys.addaudithook(hook)


def names_in(code: CodeType) -> set[str]:
    """Every name that the code and the functions in it look up."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_in(constant)
    return names


def hidden_names(
    defined: dict[str, Any], pristine: dict[str, Any], used: frozenset[str], is_module: Callable[[Any], bool]
) -> set[str]:
    """Names under which the source shadows builtins that the tests use, and which the tests must not see.

    A source that is tested under such a name (`assert sum(1, 2) == 3`) is recognised by the tests using nothing else
    of it.
    """
    shadowed = {name for name in used if name in pristine and name in defined and not name.startswith("__")}
    others = {name for name in used - shadowed if name in defined and not is_module(defined[name])}
    return shadowed if others else set()


def test_namespace(
    namespace: dict[str, Any], pristine: dict[str, Any], used: frozenset[str]
) -> dict[str, Any]:
    """Namespace of the tests: the source's, with builtins as they were before it ran."""
    hidden = hidden_names(namespace, pristine, used, lambda value: type(value) is type(sys))
    if hidden:
        namespace = {name: value for name, value in namespace.items() if name not in hidden}
    namespace["__builtins__"] = pristine
    return namespace


def report(error: BaseException) -> bytes:
    """Message about an exception for the server: its kind of failure, its class, its text, its line."""
    try:
        where, step = "", error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename in (SOURCE_NAME, TEST_NAME):
                where = f" ({step.tb_frame.f_code.co_filename.strip('<>')}, line {step.tb_lineno})"
            step = step.tb_next
        text = str(error)[:_MESSAGE_CHARS]
        line = f"{type(error).__name__}{where}: {text}" if text else f"{type(error).__name__}{where}"
    except BaseException:  # the exception is the program's own
        line = "an exception that cannot be shown"
    letter = b"M" if MemoryError in type(error).__mro__ else b"F"
    return letter + line.encode("utf-8", "backslashreplace")[: _MESSAGE_CHARS + 20]
