"""Protocol of a tracker, and its inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from polyray.runs.atomic import atomic_write_json

Status = Literal["finished", "failed", "killed"]


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Identity of the run; `directory` is the tracker's own.

    Example:
        RunIdentity(name="first", directory=Path("runs/first/tracking"))
    """

    name: str
    directory: Path


class Tracker(Protocol):
    """One foreign system. All calls come from one thread; an error drops the tracker, and the run continues."""

    def start(self, config: Mapping[str, Any], identity: RunIdentity) -> int:
        """Open the run, or continue the one of an earlier start; returns the first step it does not have."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step; steps come in order, each one once."""
        ...

    def finish(self, status: Status) -> None:
        """Writes what is left and closes the run."""
        ...


class TrackerState:
    """State of a tracker between starts: the id of its run and the first step that it does not have."""

    def __init__(self, identity: RunIdentity, tracker: str) -> None:
        self._path = identity.directory / f"{tracker}.json"
        saved = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else {}
        self.run_id: str | None = saved.get("run_id")
        self.next_step: int = saved.get("next_step", 0)

    def save(self, *, run_id: str | None = None, next_step: int | None = None) -> None:
        """Changes and writes it."""
        self.run_id = self.run_id if run_id is None else run_id
        self.next_step = self.next_step if next_step is None else next_step
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(self._path, {"run_id": self.run_id, "next_step": self.next_step})


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics.jsonl, without its step."""
    return {
        key: float(value)
        for key, value in line.items()
        if key != "step" and isinstance(value, int | float) and math.isfinite(value)
    }
