"""An engine in a child process, behind its own methods: vLLM changes the process it lives in for good."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from polyray.rollout.engine import EngineSettings

WAIT_S = 300.0


class RemoteEngine:
    """Calls go to the child and are answered in order; what a method raises is raised here."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection = connection
        self.pid = pid

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self._ask(name, *args)

    def drain(self) -> list[Any]:
        """Poll until the engine is idle."""
        answers: list[Any] = []
        while not self.value("idle"):
            answers += self.poll()
        return answers

    def value(self, path: str) -> Any:
        """An attribute, e.g. `_delivery.in_flight`."""
        return self._ask("value", path)

    def _ask(self, *message: Any) -> Any:
        self._connection.send(message)
        assert self._connection.poll(WAIT_S), f"no answer to {message[0]} within {WAIT_S:g} s"
        answer = self._connection.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


@contextmanager
def engine_process(settings: EngineSettings) -> Iterator[RemoteEngine]:
    """A `VllmEngine` in a child that ends with the block."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    # Not a daemon: an engine may have processes of its own.
    child = context.Process(target=_serve, args=(there, settings))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        child.start()
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    there.close()
    try:
        assert child.pid is not None
        remote = RemoteEngine(here, child.pid)
        assert remote.value("idle") is True
        yield remote
    finally:
        here.close()
        child.join(10)
        if child.is_alive():
            child.kill()
            child.join()


def _serve(connection: Connection, settings: EngineSettings) -> None:
    from polyray.rollout.vllm_engine import VllmEngine

    built = VllmEngine(settings)
    while True:
        try:
            method, *arguments = connection.recv()
        except EOFError:
            built.close()
            os._exit(0)  # what vLLM would still tidy up ends with the process, in an instant
        try:
            answer = (
                _attribute(built, *arguments) if method == "value" else getattr(built, method)(*arguments)
            )
        except Exception as error:
            answer = error
        connection.send(answer)


def _attribute(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return str(value) if isinstance(value, Path) else value
