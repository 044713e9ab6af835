"""A command ends with its local Ray: where Ray's own processes are gone, what waits for their answers waits for ever.

A signal to the whole process group (`timeout`, systemd, a scheduler) reaches Ray's processes as well as the command,
and so does the kernel where memory runs out. Serve's and Train's clients then repeat their calls without end.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from polyray.errors import EXIT_FAILURE

LOOK_S = 1.0
WAY_OUT_S = 10.0
"""Time for the ordinary way out, which leaves a line in the run's logs."""
NEEDED = ("raylet", "gcs_server")
SHOW_CURSOR = "\x1b[?25h"


class _Command:
    """Whether this process is a command of ours: a notebook that uses polyray must not be ended."""

    ends_with_ray = False


def end_with_ray() -> None:
    """From now on the process ends where the local Ray that it started is lost."""
    _Command.ends_with_ray = True


@contextmanager
def watched_ray() -> Iterator[None]:
    """Watches the local Ray of this process during the block; leaves the process where Ray is lost."""
    over = threading.Event()
    if _Command.ends_with_ray:
        threading.Thread(target=_watch, args=(over,), daemon=True, name="ray-watch").start()
    try:
        yield
    finally:
        if _lost() is None:
            over.set()


def _watch(over: threading.Event) -> None:
    while not over.wait(LOOK_S):
        lost = _lost()
        if lost is not None and not over.wait(WAY_OUT_S):
            if sys.stdout.isatty():
                sys.stdout.write(SHOW_CURSOR)
                sys.stdout.flush()
            print(
                f"error: Ray's {lost} has ended (a signal to the whole process group, or no memory left); start the "
                "same command again: it goes on from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(EXIT_FAILURE)


def _lost() -> str | None:
    """The process of the local Ray that is gone, if one is."""
    from ray._private import worker

    node: Any = worker._global_node
    try:
        dead = [] if node is None else [kind for kind, _ in node.dead_processes() if kind in NEEDED]
    except RuntimeError:  # Ray changes its table of processes at this moment
        dead = []
    return dead[0] if dead else None
