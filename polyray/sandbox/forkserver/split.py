"""Inside the child, strict mode: the tests in one process, the source in another, plain values between them.

    the tests' process    holds the line to the server; runs trusted code only; calls the source through stand-ins
    the source's process  has neither that line nor the tests' text, and cannot reach into the other's memory

So no code of the source's can forge a verdict, patch what the tests use, or read what they expect. Results of its
functions are compared as the builtin or numpy values that they are: an object with a false `__eq__` cannot take part.
A deviation from the reference evaluators: tests that compare other objects than those fail here, and so do tests
that hand functions of their own to the source. Names that the tests use of the source stay the source's word.
"""

from __future__ import annotations

import builtins
import os
import struct
import sys
from _socket import socketpair
from contextlib import suppress
from typing import Any, NoReturn

from .codec import decode, encode
from .execute import (
    CONTROL,
    SOURCE_NAME,
    TEST_NAME,
    TOKEN_BYTES,
    hidden_names,
    names_in,
    new_module,
    read_exactly,
    read_texts,
    report,
)

_SIZE = struct.Struct("<Q")
_MAX_FRAME = 256 << 20
_MODULES = frozenset((*sys.stdlib_module_names, "numpy"))
"""Modules that the tests' process imports again if the source imported them and the tests use them."""


class SourceEnded(BaseException):
    """The source's process is gone; no test may catch it."""


class SourceGarbled(BaseException):
    """The source's process answered with something else than a value; no test may catch it."""


def run() -> NoReturn:
    """Forks the source's process before any text is read, then runs the tests and proves that they returned."""
    ours, theirs = (end.detach() for end in socketpair())
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.dup2(theirs, CONTROL)
        os.close(theirs)
        _serve_source(CONTROL)
    os.close(theirs)
    line = _Line(ours)
    try:
        source, test = read_texts(CONTROL)
        test_code = compile(test, TEST_NAME, "exec", dont_inherit=True)
        line.ask("source", source)
        namespace = _stand_ins(line, names_in(test_code))
        exec(test_code, namespace)
        sys.stdout.flush()
    except SourceEnded:
        os.write(CONTROL, _how_it_ended(pid))
        os._exit(1)
    except BaseException as error:
        os.write(CONTROL, report(error))
        os._exit(1)
    os.write(CONTROL, b"D")
    os.write(CONTROL, os.read(CONTROL, TOKEN_BYTES))
    os._exit(0)


def _how_it_ended(pid: int) -> bytes:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    letter, how = ("C", f"signal {-code}") if code < 0 else ("X", f"exit code {code}")
    return f"{letter}the source's process ended with {how} before the tests returned".encode()


class _Line:
    """The tests' end: one question, one answer."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ask(self, *question: Any) -> Any:
        """The answer's value. Raises what the source raised, if builtin; SourceEnded where it is gone."""
        data = encode(question, self._handle_of)
        try:
            _send(self._fd, data)
            data = _receive(self._fd)
        except (EOFError, OSError) as error:
            raise SourceEnded from error
        try:
            kind, value, detail = decode(data, lambda number, name: StandIn(self, number, name))
        except Exception as error:
            raise SourceGarbled(f"{type(error).__name__}: {error}") from error
        if kind == "raised":
            raise _builtin_exception(str(value), str(detail))
        if question[0] == "call" and detail is not None:
            for before, after in zip(question[2], detail, strict=True):
                _update(before, after)
        return value

    @staticmethod
    def _handle_of(value: Any) -> int:
        if type(value) is StandIn:
            return object.__getattribute__(value, "_number")
        raise TypeError(f"strict mode cannot hand a {type(value).__name__} of the tests' to the source")


def _builtin_exception(name: str, text: str) -> Exception:
    """Exception of the source as the tests see it: the same class if it is a builtin one that takes a text."""
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception):
        with suppress(TypeError):
            return known(text)
    return RuntimeError(f"{name}: {text}")


class StandIn:
    """An object of the source's as the tests see it: to call, to take attributes of, and to hand back."""

    __slots__ = ("_line", "_name", "_number")

    def __init__(self, line: _Line, number: int, name: str) -> None:
        for key, value in (("_line", line), ("_number", number), ("_name", name)):
            object.__setattr__(self, key, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._line.ask("call", self, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        return self._line.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._line.ask("set", self, name, value)

    def _refuse(self, *others: Any) -> bool:
        raise TypeError(f"strict mode compares builtin and numpy values; the source gave a {self._name}")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse
    __hash__ = object.__hash__


def _stand_ins(line: _Line, used: set[str]) -> dict[str, Any]:
    """The tests' namespace: what they use of the source, by name."""
    answer = line.ask("names", sorted(used))
    values = {str(name): value for name, value in answer["values"].items() if str(name) in used}
    modules = {str(name): str(module) for name, module in answer["modules"].items()}
    modules = {name: module for name, module in modules.items() if module in _MODULES}
    hidden = hidden_names(values, dict(vars(builtins)), frozenset(used), lambda value: False)
    namespace: dict[str, Any] = {"__builtins__": builtins, "__name__": "tests"}
    namespace |= {name: __import__(module) for name, module in modules.items() if name in used}
    return namespace | {name: value for name, value in values.items() if name not in hidden}


def _update(before: Any, after: Any) -> None:
    """Repeat a call's change of an argument on the tests' own object."""
    if type(before) is not type(after):
        return
    if isinstance(before, list | bytearray):
        before[:] = after
    elif isinstance(before, dict | set):
        before.clear()
        before.update(after)


def _serve_source(fd: int) -> NoReturn:
    """The source's process: executes it, then answers until the tests' process is gone."""
    objects: list[Any] = []
    namespace, flush = new_module(), sys.stdout.flush

    def handle(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    while True:
        try:
            question = _receive(fd)
        except (EOFError, OSError):
            os._exit(0)
        try:
            value, detail = _answer(namespace, *decode(question, lambda number, name: objects[number]))
            answer = encode(("value", value, detail), handle)
        except BaseException as error:
            text = report(error)[1:].decode("utf-8", "replace").partition(": ")[2]
            answer = encode(("raised", type(error).__name__, text), handle)
        with suppress(Exception):  # a source may have closed its own stdout
            flush()
        _send(fd, answer)


def _answer(namespace: dict[str, Any], what: str, *arguments: Any) -> tuple[Any, Any]:
    if what == "source":
        exec(compile(arguments[0], SOURCE_NAME, "exec", dont_inherit=True), namespace)
        return None, None
    if what == "names":
        return _names(namespace, arguments[0]), None
    if what == "get":
        return getattr(arguments[0], arguments[1]), None
    if what == "set":
        return setattr(*arguments), None
    function, given, named = arguments
    before = _plain(given)
    value = function(*given, **named)
    changed = before is not None and _plain(given) != before
    return value, given if changed else None


def _plain(given: list[Any]) -> bytes | None:
    """The arguments' bytes, or None where some of them cannot be changed from here: they are the source's own."""

    def refuse(value: Any) -> int:
        raise TypeError

    try:
        return encode(given, refuse)
    except (TypeError, RecursionError):
        return None


def _names(namespace: dict[str, Any], used: list[str]) -> dict[str, Any]:
    defined = {name: namespace[name] for name in used if name in namespace and not name.startswith("__")}
    modules = {name: value.__name__ for name, value in defined.items() if type(value) is type(sys)}
    return {"modules": modules, "values": {n: v for n, v in defined.items() if n not in modules}}


def _send(fd: int, data: bytes) -> None:
    view = memoryview(_SIZE.pack(len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def _receive(fd: int) -> bytes:
    (size,) = _SIZE.unpack(read_exactly(fd, _SIZE.size))
    if size > _MAX_FRAME:
        raise ValueError(f"a value of {size} bytes; strict mode passes at most {_MAX_FRAME}")
    return read_exactly(fd, size)
