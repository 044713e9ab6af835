"""Stop request of a driver to workers that it cannot call: .stop in the run's directory.

The file exists, and is empty, for as long as the driver watches; a word in it is the request. It is written in place
and opened anew at every look: a network file system then shows the newest content of an existing file, while it may
remember for a minute that a file does not exist.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

STOP_FILE = ".stop"


class StopRequest:
    """The driver's side, as a context: what an earlier start left is no request, and nothing is left at the end.

    Example:
        with StopRequest(Path("runs/sft")) as stop:
            stop.ask("SIGTERM")
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / STOP_FILE

    def ask(self, why: str) -> None:
        """Ask the workers to end, for a reason in one word."""
        self._path.write_text(why, encoding="utf-8")

    def __enter__(self) -> StopRequest:
        self._path.write_text("", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)


def is_stop_requested(run_dir: Path) -> bool:
    """The workers' side; without a driver nothing is requested."""
    try:
        return bool((run_dir / STOP_FILE).read_bytes())
    except FileNotFoundError:
        return False
