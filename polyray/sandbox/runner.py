"""One fork server and the line to it: runs one program at a time. Safe to start from a process with threads.

The server is a fresh interpreter started by exec (never a fork of this process) in an environment of our making: it
inherits neither threads nor keys. It ends when this process does. Called by pool.py, one runner per thread.
"""

from __future__ import annotations

import marshal
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from polyray.errors import SandboxError
from polyray.sandbox.program import Limits, Program, ProgramResult, Verdict

START_TIMEOUT_S = 60.0
ANSWER_GRACE_S = 30.0
"""Time beyond the program's own; then the server counts as stuck and is replaced."""
END_TIMEOUT_S = 5.0
_LENGTH = struct.Struct("<I")
_BOOTSTRAP = (
    "import sys\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "from forkserver.server import serve\n"
    "del sys.path[0]\n"
    "job = serve(int(sys.argv[2]), sys.argv[3], tuple(sys.argv[4:]))\n"
    "del serve, sys\n"
    "job()\n"
)


class Runner:
    """A fork server and what belongs to it."""

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        """Starts the server; `without` leaves out mechanisms of isolation, which only tests do.

        Raises SandboxError where no interpreter can be started.
        """
        self._base = tempfile.mkdtemp(prefix="polyray-sandbox-")
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._channel, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-s", "-B", "-X", "utf8", "-c", _BOOTSTRAP]
        command += [str(Path(__file__).parent), str(theirs.fileno()), self._base, *without]
        try:
            with theirs:
                self._server = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._complaints,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
                    start_new_session=True,
                )
            self.isolation = str(self._receive(START_TIMEOUT_S))
        except (OSError, EOFError) as error:
            complaint = self.close()
            raise SandboxError(
                f"the sandbox's fork server {sys.executable} did not start within {START_TIMEOUT_S:g} s ({error}; "
                f"{complaint}); it needs Linux 5.3 and a temporary directory that can be written"
            ) from error
        if "private-root" in self.isolation:  # it has moved out
            shutil.rmtree(self._base, ignore_errors=True)

    def run(self, program: Program, limits: Limits, strict: bool) -> ProgramResult:
        """Run a program. Raises SandboxError if the server does not answer; the runner is then closed."""
        texts = [text.encode("utf-8", "surrogatepass") for text in (program.source, program.test_text)]
        mib = 1 << 20
        bounds = (float(limits.timeout_s), limits.memory_mib * mib, limits.file_mib * mib, limits.num_files)
        request = {
            "bounds": (*bounds, limits.num_processes, limits.output_kib << 10),
            "strict": strict,
            "guarded": program.guarded,
            "sizes": tuple(len(text) for text in texts),
        }
        try:
            header = marshal.dumps(request)
            self._channel.settimeout(ANSWER_GRACE_S)
            self._channel.sendall(b"".join((_LENGTH.pack(len(header)), header, *texts)))
            reply = self._receive(limits.timeout_s + ANSWER_GRACE_S)
        except (OSError, EOFError) as error:
            complaint = self.close()
            raise SandboxError(
                f"the sandbox's fork server is gone or stuck: {error!r}; {complaint}"
            ) from error
        verdict, message, wall_s, cpu_s, max_rss, stdout = reply
        return ProgramResult(
            program.program_id,
            cast(Verdict, verdict),
            message.decode("utf-8", "backslashreplace")[:1024],
            wall_s,
            cpu_s,
            max_rss,
            self.isolation,
            stdout.decode("utf-8", "backslashreplace"),
        )

    def close(self) -> str:
        """Ends the server, what it runs, and removes its directory; the last line of what it complained about."""
        self._channel.close()  # the server ends its program and then itself
        server = getattr(self, "_server", None)
        if server is not None:
            try:
                server.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        shutil.rmtree(self._base, ignore_errors=True)
        if self._complaints.closed:
            return ""
        with self._complaints as file:
            file.seek(0)
            return file.read()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]

    def forget(self) -> None:
        """Leave the server to its owner, in a forked child of this process."""
        self._channel.close()
        self._server.returncode = 0

    def _receive(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        (size,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        return marshal.loads(self._read(size, deadline))

    def _read(self, size: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            ready = select.poll()
            ready.register(self._channel, select.POLLIN)
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("no answer in time")
            part = self._channel.recv(min(size, 1 << 20))
            if not part:
                raise EOFError("it ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
