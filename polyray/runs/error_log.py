"""error.log in a run's directory: full tracebacks of what ended the run or one of its processes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ERROR_LOG = "error.log"


def log_error(run_dir: Path, process: str, error: BaseException) -> Path | None:
    """Appends a traceback with time and process; None where the file cannot be written."""
    path = run_dir / ERROR_LOG
    text = "".join(traceback.format_exception(error))
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"== {when} {process}\n{text}\n")
    except OSError:  # a full disk must not hide the error itself
        return None
    return path


@contextmanager
def errors_logged(run_dir: Path, process: str) -> Iterator[None]:
    """Log any error that passes through, and raise it again."""
    try:
        yield
    except Exception as error:
        log_error(run_dir, process, error)
        raise
