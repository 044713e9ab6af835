"""A reader's terminal in a fresh clone: printed blocks run in order, in namespaces of their own (no test)."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import yaml

from tests.conftest import REPOSITORY_ROOT
from tests.smaller import REAL_PYTHON, SMALLER_FILES

NAMESPACES = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child",
              "--mount-proc")  # fmt: skip
"""Ports, /tmp/ray, /mnt and processes are those of one terminal: printed ports are free, `ray stop` stops its own Ray
only, there is no network, and nothing is left when it ends."""
SET_UP = """\
ip link set lo up
mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && mount -t tmpfs none /mnt
while read -r command; do eval "$command"; done
"""
READY = "is ready"
"""Text that a service prints once it answers."""
ENVIRONMENT = ("LANG", "LC_ALL", "TERM", "PIP_INDEX_URL", "TORCH_COMPILE_DISABLE", "CXX")
"""Passed on; a reader has nothing else set."""


def isolates() -> bool:
    """Whether this machine gives a terminal namespaces of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = [*NAMESPACES, "bash", "-c", "ip link set lo up && mount -t tmpfs none /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def clone(directory: Path) -> None:
    """The working tree as `git clone` would give it, with an environment that `make setup` has made.

    The environment's `python` is the shared one behind `tests/smaller.py`.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY_ROOT / name
        if source.is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, directory / name)
    _environment(directory)


def _environment(directory: Path) -> None:
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in Path(sys.executable).parent.iterdir():
        (programs / program.name).symlink_to(program)
    for name in ("python", "polyray", "activate"):
        (programs / name).unlink(missing_ok=True)
    script = f'#!/bin/sh\nexec "${REAL_PYTHON}" {REPOSITORY_ROOT}/tests/smaller.py "$@"\n'
    (programs / "python").write_text(script, encoding="utf-8")
    (programs / "polyray").write_text(
        f'#!/bin/sh\nexec {programs}/python -m polyray.cli "$@"\n', encoding="utf-8"
    )
    for name in ("python", "polyray"):
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(
        f'export PATH="{programs}:$PATH" PYTHONPATH="{directory}"\n', encoding="utf-8"
    )
    stamp = "cat requirements/cpu.txt requirements/hashed.txt requirements/setup.sh | sha256sum"
    done = subprocess.run(["bash", "-c", stamp], cwd=directory, capture_output=True, text=True, check=True)
    (directory / ".venv" / ".requirements.sha256").write_text(done.stdout, encoding="utf-8")
    smaller = directory / ".venv" / "smaller"
    smaller.mkdir()
    for name, (source, sizes) in SMALLER_FILES.items():
        values = yaml.safe_load((directory / source).read_text(encoding="utf-8"))
        for dotted, size in sizes.items():
            *parents, key = dotted.split(".")
            node = values
            for parent in parents:
                node = node.setdefault(parent, {})
            node[key] = size
        (smaller / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


class Terminal:
    """Blocks run one after the other; exported variables stay, as in one shell."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory, self._home = directory, home
        self._number = 0
        self._serving: tuple[int, Path] | None = None
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                        "HF_HUB_OFFLINE": "1", REAL_PYTHON: sys.executable}  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        self._variables = home / "variables.sh"
        self._variables.write_text("", encoding="utf-8")
        with (home / "shell.log").open("w") as log:
            self._shell = subprocess.Popen(
                [*NAMESPACES, "bash", "-c", SET_UP],
                cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
            )  # fmt: skip

    def run(self, text: str, seconds: float) -> str:
        """Returns the output of a block. Raises AssertionError with it if a command of the block failed."""
        script, log = self._script(text)
        status = self._ask(f"bash {script} >{log} 2>&1; echo $?", seconds)
        printed = log.read_text(encoding="utf-8", errors="replace")
        assert status == "0", f"exit code {status} of\n{text}\n{printed}"
        return printed

    def serve(self, text: str, seconds: float) -> None:
        """Starts a block whose last command serves, and waits until it answers."""
        script, log = self._script(text, replace=True)
        pid = self._ask(f"set -m; bash {script} >{log} 2>&1 & echo $!; set +m", 10)
        self._serving = (int(pid), log)
        deadline = time.monotonic() + seconds
        while READY not in (printed := log.read_text(encoding="utf-8", errors="replace")):
            alive = self._ask(f"kill -0 {pid} 2>/dev/null; echo $?", 10) == "0"
            assert alive and time.monotonic() < deadline, f"{text}\n{printed}"
            time.sleep(0.5)

    def interrupt(self, seconds: float) -> None:
        """Ctrl-C for what serves, if anything does."""
        if self._serving is None:
            return
        (pid, log), self._serving = self._serving, None
        status = self._ask(f"kill -INT {pid}; wait {pid}; echo $?", seconds)
        assert status in ("0", "130"), log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Ends every process of the terminal."""
        self._shell.send_signal(signal.SIGKILL)
        self._shell.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()

    def _script(self, text: str, replace: bool = False) -> tuple[Path, Path]:
        """A bash script of the block and where its output goes. With `replace` the last command takes the script's
        place, so that a signal reaches it."""
        self._number += 1
        script, log = (self._home / f"block-{self._number}.{ending}" for ending in ("sh", "log"))
        before, _, last = text.replace("\\\n", " ").rstrip().rpartition("\n")
        body = f"{before}\nexec {last}\n" if replace else text
        keep = f"export -p >{self._variables}\n"
        script.write_text(f". {self._variables}\nset -eo pipefail\n{body}\n{keep}", encoding="utf-8")
        log.touch()
        return script, log

    def _ask(self, command: str, seconds: float) -> str:
        """One line of the shell's answer to one line."""
        stdin, stdout = _pipe(self._shell.stdin), _pipe(self._shell.stdout)
        stdin.write(f"{command}\n")
        stdin.flush()
        ready, _, _ = select.select([stdout], [], [], seconds)
        if not ready:
            self.close()
            raise AssertionError(f"no end after {seconds:.0f} s of {command}")
        return stdout.readline().strip()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
