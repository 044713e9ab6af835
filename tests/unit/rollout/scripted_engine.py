"""An engine that does what a test says, and a worker around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from polyray.errors import DataError
from polyray.models.adapter import PolicyUpdate, Probe, sha256_of
from polyray.rollout.engine import Answer, Engine, Running
from polyray.rollout.worker import RolloutWorker
from polyray.types import (
    Completion,
    Group,
    GroupRequest,
    PolicyVersion,
    Prompt,
    Sampling,
    TextDelta,
    TextRequest,
)

WAIT_S = 5.0
PROMPT = Prompt("p", "37|b1>e4=")


class ScriptedEngine(Engine):
    """A group needs `seeds[0]` polls and carries the version that was served at every one of them; where the
    engine keeps versions, that of its submission.

    `held_back` holds polls back; `events` records the calls of the thread in order.
    """

    def __init__(self, load_error: Exception | None = None, keeps_versions: bool = False) -> None:
        self.keeps_versions = keeps_versions
        self.max_sequences = 4
        self.most_out = 0
        self.closed = self.asleep = False
        self.load_s = 0.0
        self.events: list[str] = []
        self.gate, self._polling = threading.Event(), threading.Event()
        self.gate.set()
        self.load_error = load_error
        self.refused: PolicyVersion | None = None
        """The version that raises `load_error`; every one for None."""
        self._policies = {"": PolicyVersion(0, -1, "")}
        """The newest of every run, or the one that is loaded."""
        self._left: dict[int, list[Any]] = {}
        self._texts: dict[int, TextRequest] = {}
        self.progress = 0

    @property
    def idle(self) -> bool:
        return not (self._left or self._texts)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """A poll in this block does not return before its end."""
        self.gate.clear()
        self._polling.clear()
        try:
            yield
        finally:
            self.gate.set()

    def next_poll(self) -> None:
        """Wait until the thread polls: messages from here on arrive together."""
        assert self._polling.wait(WAIT_S)

    def sleep(self) -> None:
        assert self.idle and not self.asleep
        self.asleep = True
        self.events.append("sleep")

    def wake(self) -> None:
        assert self.asleep
        self.asleep = False
        self.events.append("wake")

    def submit(self, number: int, request: GroupRequest | TextRequest) -> None:
        assert not self.asleep
        if isinstance(request, TextRequest):
            self.events.append(f"text {number}")
            self._texts[number] = request
            return
        if request.prompt.text == "refused":
            raise DataError("prompt 'p' has 99 tokens, the limit is 16")
        if request.prompt.text == "explodes":
            raise ZeroDivisionError("a defect of the engine")
        self.events.append(f"submit {request.run}{number}")
        policy = self._policies[request.run]
        self._left[number] = [request, request.seeds[0], {policy} if self.keeps_versions else set()]

    def poll(self) -> list[Answer]:
        self.most_out = max(self.most_out, len(self._left))
        self._polling.set()
        assert self.gate.wait(WAIT_S)
        finished: list[Answer] = [(number, TextDelta("x", (7,), (), (), None)) for number in self._texts]
        for group_id, entry in list(self._left.items()):
            entry[1] -= 1
            if not self.keeps_versions:
                entry[2] |= set(self._policies.values())
            if entry[1] <= 0:
                del self._left[group_id]
                finished.append((group_id, _group(entry[0], entry[2])))
                self.events.append(f"finish {group_id}")
        return finished

    def abort(self, number: int) -> None:
        self.events.append(f"abort {number}")
        self._left.pop(number, None)
        self._texts.pop(number, None)

    def held(self) -> dict[str, int]:
        return {policy.name: 0 for policy in self._policies.values()}

    def load(self, payload: PolicyUpdate) -> None:
        assert (self.idle or self.keeps_versions) and not self.asleep
        self.events.append(f"load {payload.policy.run}{payload.policy.version}")
        if self.load_error is not None and self.refused in (None, payload.policy):
            raise self.load_error
        if not self.keeps_versions:
            self._policies.clear()
        self._policies[payload.policy.run] = payload.policy
        time.sleep(self.load_s)

    def forget(self, run: str) -> None:
        self._policies.pop(run, None)

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.events.append("probe")
        return np.array([-0.25 * len(sequence) for sequence in sequences], np.float32)

    def close(self) -> None:
        self.closed = True

    # `submit` and `poll` are scripted themselves.
    def _add(self, running: Running) -> None: ...

    def _advance(self) -> list[tuple[int, TextDelta]]:
        return []

    def _cancel(self, running: Running) -> None: ...

    def _load(self, payload: PolicyUpdate) -> None: ...

    def _unload(self, loaded: Any) -> None: ...


def _group(request: GroupRequest, versions: set[PolicyVersion]) -> Group:
    (policy,) = versions  # a group that met two versions is a mixture: the unpacking fails
    completion = Completion(
        np.array([23], np.int32), np.array([-1.0], np.float32), "U", "stop", request.seeds[0]
    )
    return Group(request.group_id, request.prompt, np.array([1], np.int32), (completion,), policy)


def text(run: str = "", stream: bool = True) -> TextRequest:
    """Streamed without an end, a token at every poll."""
    return TextRequest((1, 2), Sampling(max_tokens=1000), 5, run, stream)


def request(
    group_id: int, polls: int = 1, text: str = PROMPT.text, run: str = "", share: float = 1.0
) -> GroupRequest:
    return GroupRequest(group_id, Prompt("p", text), (polls,), max_completion_tokens=10, run=run, share=share)


def payload(version: int, tensors: bytes = b"weights", attempt: int = 1, run: str = "") -> PolicyUpdate:
    probe = Probe(((1, 2), (1, 2, 3)), np.zeros(2, np.float32), None)
    policy = PolicyVersion(attempt, version, sha256_of(b"weights"), run)
    return PolicyUpdate(policy, tensors, None, probe)


@contextmanager
def running(engine: Engine) -> Iterator[RolloutWorker]:
    worker = RolloutWorker("rollout-0", lambda: engine)
    yield worker
    worker.stop()


def failed_with(future: Future[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        future.result(WAIT_S)
