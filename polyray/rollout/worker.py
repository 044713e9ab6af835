"""One engine and the one thread that steps it; callers get futures.

    submit ----.                       .--> future of Group
    deliver ----+--> inbox --> thread -+--> future of DeliveryAck
    (any thread)                       '--> the first failure of the engine fails everything still out

A delivery is a gate: what was submitted before it finishes on the old version, what comes after it waits for
the new one. So no group ever mixes versions. Where the engine keeps versions, the old one's groups go on beside
it; where it does not, they are finished first. A version that does not follow the one before begins a new history:
what is under way then is given up, because nobody waits for it and its groups may come again. Used by the rollout
actor, and directly by tests and benchmarks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from polyray.delivery.adapter import AdapterPayload, sha256_of
from polyray.delivery.proof import DeliveryAck
from polyray.errors import DeliveryError, PolyrayError, RolloutError
from polyray.rollout.engine import Engine
from polyray.types import Group, GroupRequest, PolicyVersion


@dataclass(slots=True)
class _Submit:
    request: GroupRequest
    future: Future[Group] = field(default_factory=Future)


@dataclass(slots=True)
class _Deliver:
    payload: AdapterPayload
    future: Future[DeliveryAck] = field(default_factory=Future)


class _Stop:
    pass


class RolloutWorker:
    """Owns an engine. Thread-safe: every method may be called from anywhere."""

    def __init__(self, name: str, build_engine: Callable[[], Engine]) -> None:
        self.name = name
        self._build_engine = build_engine
        self._inbox: queue.SimpleQueue[_Submit | _Deliver | _Stop] = queue.SimpleQueue()
        self._out: dict[int, Future[Group]] = {}
        self._ready: Future[float] = Future()
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        """No message may slip in between the look at `_failure` and the clearing of the inbox."""
        self._busy_s = 0.0
        self._policy: PolicyVersion | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> Future[float]:
        """Resolves to the seconds the engine took to start, or to why it did not."""
        return self._ready

    @property
    def busy_s(self) -> float:
        """Seconds the engine has spent stepping so far."""
        return self._busy_s

    def submit(self, request: GroupRequest) -> Future[Group]:
        """The group, sampled by whatever version this worker serves when the request is admitted."""
        return self._post(_Submit(request))

    def deliver(self, payload: AdapterPayload) -> Future[DeliveryAck]:
        """Loads a version (after the groups in flight, where the engine holds one at a time) and answers what
        the engine then says of the probe."""
        return self._post(_Deliver(payload))

    def stop(self) -> None:
        """Ends the thread after the current step; what is still out fails."""
        self._inbox.put(_Stop())
        self._thread.join(timeout=30)

    def _post(self, message):  # type: ignore[no-untyped-def]
        with self._failing:
            if self._failure is None:
                self._inbox.put(message)
            else:
                message.future.set_exception(RolloutError(f"engine of {self.name} is gone: {self._failure}"))
        return message.future

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            engine = self._build_engine()
        except BaseException as error:
            self._fail(error)
            self._ready.set_exception(error)
            return
        self._ready.set_result(time.perf_counter() - started)
        try:
            while self._serve(engine):
                pass
            self._fail(RolloutError(f"worker {self.name} was stopped"))
        except BaseException as error:
            self._fail(error)
        finally:
            engine.close()

    def _serve(self, engine: Engine) -> bool:
        """One turn: take in what is waiting, then one engine step. False where the worker was told to
        stop."""
        while not (self._inbox.empty() and self._out):
            message = self._inbox.get()
            if isinstance(message, _Stop):
                return False
            if isinstance(message, _Submit):
                self._admit(engine, message)
            else:
                self._deliver(engine, message)
        started = time.perf_counter()
        self._resolve(engine.poll())
        self._busy_s += time.perf_counter() - started
        return True

    def _admit(self, engine: Engine, message: _Submit) -> None:
        self._out[message.request.group_id] = message.future
        try:
            engine.submit(message.request)
        except PolyrayError as error:  # this request cannot be served; the engine is fine
            del self._out[message.request.group_id]
            message.future.set_exception(error)

    def _deliver(self, engine: Engine, message: _Deliver) -> None:
        payload = message.payload
        try:
            if self._out and self._begins_anew(payload.policy):
                self._give_up(engine, payload.policy)
            if not engine.keeps_versions:
                self._resolve(engine.drain())
            if sha256_of(payload.tensors) != payload.policy.sha256:
                raise DeliveryError(
                    f"{payload.policy.name} arrived damaged at {self.name}: its sha256 does not match"
                )
            started = time.perf_counter()
            engine.load(payload)
            loaded = time.perf_counter()
            logprobs = engine.probe(payload.probe.sequences)
        except BaseException as error:
            message.future.set_exception(error)
            if engine.keeps_versions and isinstance(error, DeliveryError):
                return  # refused, and nothing changed: the groups in flight go on
            # An engine that failed inside a reload may serve anything: it is discarded as a whole.
            raise
        self._policy = payload.policy
        message.future.set_result(
            DeliveryAck(
                self.name,
                sha256_of(payload.tensors),
                logprobs,
                loaded - started,
                time.perf_counter() - loaded,
            )
        )

    def _begins_anew(self, policy: PolicyVersion) -> bool:
        before = self._policy
        return before is not None and (policy.attempt != before.attempt or policy.version <= before.version)

    def _give_up(self, engine: Engine, policy: PolicyVersion) -> None:
        """An engine knows groups by their ids, and those of the new history are the same."""
        self._resolve(engine.poll())  # what has finished is handed over
        for group_id, future in self._out.items():
            engine.abort(group_id)
            future.set_exception(RolloutError(f"group {group_id} was given up: {policy.name} begins anew"))
        self._out.clear()

    def _resolve(self, groups: list[Group]) -> None:
        for group in groups:
            self._out.pop(group.group_id).set_result(group)

    def _fail(self, error: BaseException) -> None:
        waiting: list[Future[Any]] = [*self._out.values()]
        self._out.clear()
        with self._failing:
            self._failure = error
            while not self._inbox.empty():
                message = self._inbox.get()
                if not isinstance(message, _Stop):
                    waiting.append(message.future)
        for future in waiting:
            if not future.done():
                future.set_exception(
                    RolloutError(f"engine of {self.name} is gone: {type(error).__name__}: {error}")
                )
