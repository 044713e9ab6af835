"""Sleep of an engine that shares its device with a learner: on request, once it is idle. Work wakes it.

Belongs to the one thread that steps the engine (worker.py).
"""

from __future__ import annotations

import time
from concurrent.futures import Future

from polyray.rollout.engine import Engine


class Sleeper:
    """State of an engine's sleep, and the callers that wait for it."""

    def __init__(self) -> None:
        self.asleep = False
        self._asked: list[Future[float]] = []

    def ask(self, future: Future[float]) -> None:
        """Resolves to the seconds it took, 0 where the engine slept already."""
        self._asked.append(future)

    def settle(self, engine: Engine, *, idle: bool) -> None:
        """Put the engine to sleep if that was requested and no work is out."""
        if not self._asked or not idle:
            return
        took = 0.0
        if not self.asleep:
            started = time.perf_counter()
            engine.sleep()
            took = time.perf_counter() - started
            self.asleep = True
        for future in self._asked:
            future.set_result(took)
        self._asked.clear()

    def wake(self, engine: Engine) -> None:
        """Wake the engine before it gets work."""
        if self.asleep:
            engine.wake()
            self.asleep = False

    def give_up(self) -> list[Future[float]]:
        """Futures that still wait, when the engine is gone."""
        waiting, self._asked = self._asked, []
        return waiting
