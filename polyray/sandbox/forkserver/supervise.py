"""Watch one program from outside: its output, its clock, its proof; then end everything left of it.

Messages of a child on its line to the server, in this order:

    R            it is confined and begins; before that S + text: it could not be (ours, not the program's)
    F, M, X or C + text  the program failed, had no memory, ended early, or crashed; then the child ends
    D            the tests returned. Only now a one-time token is drawn and sent; the same 16 bytes back are the proof

Anything else is an attempt to forge one. Called by server.py.
"""

from __future__ import annotations

import os
import select
import time
from _signal import SIGKILL, SIGTERM, SIGXCPU  # pyright: ignore[reportMissingImports]
from dataclasses import dataclass, field

from .confine import Bounds, Confinement

TOKEN_BYTES = 16
MESSAGE_BYTES = 1024
GRACE_S = 0.2
"""Seconds for a child to end by itself after its last message: then its status is known."""
END_TIMEOUT_S = 1.0
_CHUNK = 65536
_VERDICTS = {b"F": "failed", b"M": "memory", b"X": "no_verdict", b"C": "crashed"}

Reply = tuple[str, bytes, float, float, int, bytes]


@dataclass(slots=True)
class Watched:
    """A child that was just forked: its id, where its wait status is read (-1: wait for it), our ends of its lines.

    Example:
        Watched(pid=41, status=9, control=5, out=6, err=8)
    """

    pid: int
    status: int
    control: int
    out: int
    err: int
    to_send: bytes = b""
    heard: bytes = b""
    """Bytes from the child that are not parsed yet."""
    ready: bool = False
    token: bytes | None = None
    verdict: str | None = None
    message: bytes = b""
    kept: dict[int, bytearray] = field(default_factory=dict)
    """Output by file descriptor, capped."""
    started: float = field(default_factory=time.monotonic)


def supervise(watched: Watched, bounds: Bounds, confinement: Confinement, channel: int) -> Reply | None:
    """The reply for this child, which has ended with all that it started; None where the runner is gone."""
    watched.kept = {watched.out: bytearray(), watched.err: bytearray()}
    for fd in (watched.control, watched.out, watched.err):
        os.set_blocking(fd, False)
    pidfd = os.pidfd_open(watched.pid)
    try:
        timed_out, abandoned = _watch(watched, bounds, channel, pidfd)
        wall_s = time.monotonic() - watched.started
        killed = _end(watched, pidfd, 0.0 if timed_out or abandoned else GRACE_S)
        _, status, usage = os.wait4(watched.pid, 0)
        if watched.status >= 0:
            told = os.read(watched.status, 4)
            killed, status = killed or not told, int.from_bytes(told, "little")
        confinement.sweep()
        for fd in watched.kept:
            _drain(watched, fd, bounds.output_bytes)
        if watched.verdict is None and not timed_out:
            _listen(watched)
        confinement.clean()
    finally:
        for fd in (pidfd, watched.status, watched.control, watched.out, watched.err):
            if fd >= 0:
                os.close(fd)
    if abandoned:
        return None
    cpu_s = usage.ru_utime + usage.ru_stime
    verdict, message = _conclude(watched, bounds, timed_out, None if killed else status, cpu_s)
    return verdict, message, wall_s, cpu_s, usage.ru_maxrss * 1024, bytes(watched.kept[watched.out])


def _watch(watched: Watched, bounds: Bounds, channel: int, pidfd: int) -> tuple[bool, bool]:
    """(timed out, runner gone) once the child has ended, had its say, or run out of time."""
    poll = select.poll()
    poll.register(watched.control, select.POLLIN | (select.POLLOUT if watched.to_send else 0))
    for fd in (watched.out, watched.err, pidfd):
        poll.register(fd, select.POLLIN)
    poll.register(channel, select.POLLRDHUP)
    deadline = watched.started + bounds.timeout_s
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return True, False
        for fd, event in poll.poll(left_s * 1000):
            if fd == channel:
                return False, True
            if fd == pidfd:
                return False, False
            if fd != watched.control:
                if not _drain(watched, fd, bounds.output_bytes):
                    poll.unregister(fd)
            elif event & ~select.POLLOUT and not _listen(watched):
                return False, False
            elif watched.to_send:
                _speak(watched)
            poll.modify(watched.control, select.POLLIN | (select.POLLOUT if watched.to_send else 0))


def _drain(watched: Watched, fd: int, limit: int) -> bool:
    """Reads what is there, keeps up to `limit` bytes; False at the end."""
    kept = watched.kept[fd]
    try:
        data = os.read(fd, _CHUNK)
    except BlockingIOError:
        return True
    kept += data[: max(0, limit - len(kept))]
    return bool(data)


def _speak(watched: Watched) -> None:
    try:
        written = os.write(watched.control, watched.to_send[: 1 << 20])
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return
    watched.to_send = watched.to_send[written:]


def _listen(watched: Watched) -> bool:
    """Read the child's messages; False when no more are expected."""
    try:
        data = os.read(watched.control, _CHUNK)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        data = b""
    if watched.verdict is not None:
        watched.message = (watched.message + data)[:MESSAGE_BYTES]
        return bool(data) and len(watched.message) < MESSAGE_BYTES
    watched.heard += data
    if not watched.ready and watched.heard:
        word, watched.heard = watched.heard[:1], watched.heard[1:]
        if word == b"S":
            watched.verdict, watched.message = "sandbox_error", watched.heard
            return False
        watched.ready = True
    return bool(data) and _understand(watched)


def _understand(watched: Watched) -> bool:
    word, rest = watched.heard[:1], watched.heard[1:]
    if not word:
        return True
    if watched.token is not None:
        if len(watched.heard) < TOKEN_BYTES and watched.token.startswith(watched.heard):
            return True
        if watched.heard == watched.token:
            watched.verdict = "passed"
            return False
    elif word in _VERDICTS:
        watched.verdict, watched.message = _VERDICTS[word], rest[:MESSAGE_BYTES]
        return len(watched.message) < MESSAGE_BYTES
    elif watched.heard == b"D" and not watched.to_send:
        watched.token = watched.to_send = os.urandom(TOKEN_BYTES)
        watched.heard = b""
        return True
    watched.verdict, watched.message = "failed", b"the program wrote to the line that carries its verdict"
    return False


def _end(watched: Watched, pidfd: int, grace_s: float) -> bool:
    """Ends the child and its group; whether it was still running after `grace_s`."""
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    running = not ended.poll(grace_s * 1000)
    if watched.status >= 0 and running:
        os.kill(watched.pid, SIGTERM)
        ended.poll(END_TIMEOUT_S * 1000)
    for target in (-watched.pid, watched.pid):
        try:
            os.kill(target, SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return running


def _conclude(
    watched: Watched, bounds: Bounds, timed_out: bool, status: int | None, cpu_s: float
) -> tuple[str, bytes]:
    """(verdict, message); `status` is None where the server ended the child."""
    if watched.verdict == "passed":
        return "passed", b""
    if timed_out:
        return "timeout", f"not done after {bounds.timeout_s:g} s".encode()
    if watched.verdict is not None:
        return watched.verdict, watched.message
    if not watched.ready:
        return "sandbox_error", b"the process ended before it was confined"
    tail = bytes(watched.kept[watched.err]).strip().rpartition(b"\n")[2][-300:]
    after = b": " + tail if tail else b""
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code is None:
        return "no_verdict", b"the program closed the line that carries its verdict" + after
    if code in (-SIGXCPU, -SIGKILL) and cpu_s >= bounds.timeout_s:
        return "timeout", f"{cpu_s:.1f} s of CPU time in {bounds.timeout_s:g} s".encode()
    if code < 0:
        return "crashed", f"ended by signal {-code}".encode() + after
    return "no_verdict", f"ended with exit code {code} before the tests returned".encode() + after
