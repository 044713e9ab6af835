"""Shared parts of the doctor's checks: findings with their fixes, child processes (not a job itself).

A check runs in a child process, because it may hang, print, crash the process or keep a GPU's memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from polyray.config.paths import REPOSITORY_ROOT, import_path

Level = Literal["ok", "warn", "FAIL"]

GIB = 2**30
REINSTALL = (
    "install polyray[cpu], or polyray[gpu] for CUDA, into a new environment"
    if REPOSITORY_ROOT is None
    else "make clean-venv setup (CUDA: a new environment from requirements/gpu.txt)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Example:
        Finding("FAIL", "torchvision 0.28.0 is installed", "pip uninstall torchvision")
    """

    level: Level
    what: str
    fix: str = ""

    def line(self) -> str:
        """Printed line."""
        return f"{self.level:4}  {self.what}" + (f"  ->  {self.fix}" if self.fix else "")


Check = Callable[[], Iterator[Finding]]


def installed_version(package: str) -> str | None:
    """The installed version, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def look(
    arguments: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    """(what `python ARGUMENTS` printed last, as JSON, what went wrong): one of both is empty."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            env={**os.environ, **import_path(), **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"not done after {timeout_s:g} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {}, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return json.loads(lines[-1]), ""


def command(arguments: Sequence[str]) -> str:
    """Such a look as one would type it."""
    return " ".join(["python", *arguments])
