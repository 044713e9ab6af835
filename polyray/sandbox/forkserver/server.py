"""The fork server's loop: one request, one forked child, one reply; nothing untrusted ever runs in it.

    hello    level (str)
    request  {"bounds": Bounds as tuple, "strict": bool, "guarded": bool, "sizes": (source, test)}, then both texts
    reply    (verdict, message, wall_s, cpu_s, max_rss, stdout)

Each is a `marshal`led value after its length, over the Unix socket that polyray.sandbox.runner handed down.
"""

from __future__ import annotations

import gc
import marshal
import os
import struct
import sys
from _socket import socketpair
from collections.abc import Callable
from functools import partial
from typing import Any

from . import execute, split
from .confine import Bounds, Confinement
from .supervise import Watched, supervise

LENGTH = struct.Struct("<I")
CONTROL = 3
"""The child's only open file besides stdin, stdout and stderr: its line to the server."""
_CHUNK = 1 << 20


def serve(channel: int, base: str, without: tuple[str, ...]) -> Callable[[], None]:
    """Serves until the runner is gone. Returns in children only, with what they have to do: by then the server's own
    frames are off the stack, so that a program cannot walk into them."""
    confinement = Confinement(base, without)
    send(channel, confinement.level)
    gc.collect()
    gc.freeze()
    while True:
        request = receive(channel)
        if request is None:
            os._exit(0)
        bounds = Bounds(*request["bounds"])
        try:
            run = split.run if request["strict"] else partial(execute.run, request["guarded"])
            job, watched = _start(confinement, bounds, run)
        except OSError as error:
            _read_exactly(channel, sum(request["sizes"]))
            send(channel, ("sandbox_error", f"cannot start a process: {error}".encode(), 0.0, 0.0, 0, b""))
            continue
        if job is not None:
            return job
        assert watched is not None
        texts = _read_exactly(channel, sum(request["sizes"]))
        if texts is None:
            os._exit(0)
        watched.to_send = struct.pack("<QQ", *request["sizes"]) + texts
        reply = supervise(watched, bounds, confinement, channel)
        if reply is None:
            os._exit(0)
        send(channel, reply)


def _start(
    confinement: Confinement, bounds: Bounds, run: Callable[[], None]
) -> tuple[Callable[[], None] | None, Watched | None]:
    """(None, what to watch) in the server; (what to do, None) in the child. The child is forked before the texts are
    read: in strict mode the half that runs the source must never have had the tests in its memory."""
    ours, theirs = (end.detach() for end in socketpair())
    out, to_out = os.pipe()
    err, to_err = os.pipe()
    try:
        pid, status = confinement.fork()
    except OSError:
        for fd in (ours, theirs, out, to_out, err, to_err):
            os.close(fd)
        raise
    if pid != 0:
        for fd in (theirs, to_out, to_err):
            os.close(fd)
        return None, Watched(pid, status, ours, out, err)
    line = theirs
    try:
        confinement.confine(bounds)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for fd, number in ((nothing, 0), (to_out, 1), (to_err, 2), (theirs, CONTROL)):
            os.dup2(fd, number)
        line = CONTROL
        os.closerange(CONTROL + 1, 1 << 20)
        _tidy(confinement.home)
    except BaseException as error:
        os.write(line, b"S" + f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:1000])
        os._exit(1)
    os.write(CONTROL, b"R")
    return run, None


def _tidy(home: str) -> None:
    """The environment a program finds, and an interpreter in which the server's modules are not loaded."""
    os.environ.clear()
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = home
    os.environ |= {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "0"}
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    own = __package__ or ""
    for name in [name for name in sys.modules if name.partition(".")[0] in (own, "ctypes", "_ctypes")]:
        del sys.modules[name]
    sys.argv[:] = ["candidate"]
    for name, fd, by_line in (("stdout", 1, False), ("stderr", 2, True)):
        stream = open(fd, "w", 1 if by_line else -1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def send(channel: int, value: Any) -> None:
    """Writes one framed value."""
    data = marshal.dumps(value)
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(channel, view) :]


def receive(channel: int) -> Any:
    """Reads one framed value; None where the other side is gone."""
    head = _read_exactly(channel, LENGTH.size)
    data = None if head is None else _read_exactly(channel, LENGTH.unpack(head)[0])
    return None if data is None else marshal.loads(data)


def _read_exactly(channel: int, size: int) -> bytes | None:
    parts = []
    while size > 0:
        part = os.read(channel, min(size, _CHUNK))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
