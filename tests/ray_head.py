"""A head of Ray as an operator starts one: token authentication, dashboard and agents, in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import MARK, REPOSITORY_ROOT, marked_processes

RAY_TOKEN = "ray-token-4711-of-this-test"


@dataclass(frozen=True)
class Head:
    address: str
    """Of the dashboard."""
    gcs: str
    """What a process of the same machine joins."""
    environment: dict[str, str]

    def run(self, module: str, *arguments: str, token: str = RAY_TOKEN) -> subprocess.CompletedProcess[str]:
        """`python -m module ...` from the repository, beside the cluster."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY_ROOT,
            env={**self.environment, "RAY_AUTH_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def job(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job COMMAND` at this head, from the directory of the test."""
        return self.run("ray.scripts.scripts", "job", command, "--address", self.address, *arguments)

    def get(self, path: str, token: str = RAY_TOKEN) -> str:
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.address}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read().decode()


@contextmanager
def ray_head(directory: Path, name: str, variables: Mapping[str, str]) -> Iterator[Head]:
    """With `variables` in the environment of all its processes; its log lies in `directory`."""
    port, dashboard, mark = free_port(), free_port(), f"{name}-{os.getpid()}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = {
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": RAY_TOKEN,
        "HF_HUB_OFFLINE": "1",
        MARK: mark,
        **variables,
    }
    with (directory / "head.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
             "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=8",
             f"--dashboard-agent-listen-port={free_port()}",  # where another Ray has the usual one
             "--object-store-memory=200000000", "--disable-usage-stats"],
            env={**environment, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )  # fmt: skip
        found = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", environment)
        try:
            wait_for(lambda: _answers(found), 90)
            yield found
        finally:
            process.terminate()
            _end(mark)
            process.wait(20)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(head: Head) -> bool:
    try:
        return "ray_version" in head.get("/api/version")
    except (OSError, urllib.error.URLError):
        return False


def _end(mark: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked_processes(mark):
            os.kill(pid, number)
        deadline = time.monotonic() + 20
        while marked_processes(mark) and time.monotonic() < deadline:
            time.sleep(0.2)
