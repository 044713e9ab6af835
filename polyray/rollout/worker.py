"""One engine and the one thread that steps it; callers get futures.

    submit ----.                                 .--> future of Group
    deliver ----+--> inbox --> turns --> thread -+--> future of SyncAck
    (any thread)                                 '--> the first failure of the engine fails everything still out

A delivery is a gate of its run: groups submitted before it finish on the old version, later groups wait for the new
one. So no group ever mixes versions. If the engine keeps versions, the groups of other runs continue beside it.
Otherwise they finish first, and runs that share the engine take turns: each finds its own newest version loaded.
A version that does not follow its run's previous version begins a new history: running groups of that run are
dropped, because their caller is gone and they may be sampled again. Used by the
rollout actor, and directly by tests and benchmarks.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from polyray.errors import PolyrayError, RolloutError, WeightSyncError, WeightSyncMismatch, is_user_error
from polyray.models.adapter import PolicyUpdate, sha256_of
from polyray.rollout.engine import Engine
from polyray.rollout.fair_queue import FairQueue
from polyray.rollout.sleeping import Sleeper
from polyray.types import Group, GroupRequest, PolicyVersion
from polyray.weight_sync.proof import SyncAck

RETURN_NATS = 1e-3
"""Mean difference of a probe from the same engine's earlier answer under the same weights: it is 0 but for the order
of sums on a GPU, while versions of two runs differ by more once they have trained."""
FILL = 2
"""Samples of several runs that an engine holds, in multiples of the sequences that it decodes together.

Groups with long last samples leave room.
"""


@dataclass(slots=True)
class _Submit:
    request: GroupRequest
    future: Future[Group] = field(default_factory=Future)

    @property
    def run(self) -> str:
        return self.request.run

    @property
    def num_samples(self) -> int:
        return len(self.request.seeds)


@dataclass(slots=True)
class _Deliver:
    payload: PolicyUpdate
    future: Future[SyncAck] = field(default_factory=Future)

    @property
    def run(self) -> str:
        return self.payload.policy.run


@dataclass(slots=True)
class _Forget:
    run: str


@dataclass(slots=True)
class _Sleep:
    future: Future[float] = field(default_factory=Future)


class _Stop:
    pass


_Message = _Submit | _Deliver | _Forget | _Sleep | _Stop


@dataclass(frozen=True, slots=True)
class Usage:
    """An engine's time so far, by purpose.

    Example:
        Usage(busy_s=12.5, loads=40, load_s=.9, returns=3, return_s=.07, kept_s=.02)
    """

    busy_s: float = 0.0
    """Stepping."""
    loads: int = 0
    """Versions that were taken on, with `load_s` seconds in all."""
    load_s: float = 0.0
    returns: int = 0
    """Loads that only brought a run's newest version back, for its next turn, with `return_s` seconds in all."""
    return_s: float = 0.0
    kept_s: float = 0.0
    """Idle for a run with a version that was just loaded, while others waited."""


class RolloutWorker:
    """Owns an engine. Thread-safe: every method may be called from anywhere."""

    def __init__(self, name: str, build_engine: Callable[[], Engine]) -> None:
        self.name = name
        self._build_engine = build_engine
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._turns: FairQueue[_Submit | _Deliver] = FairQueue()
        self._out: dict[int, _Submit] = {}
        """Groups in the engine, by our own number: runs that share it may use the same group ids."""
        self._numbers = itertools.count()
        self._newest: dict[str, PolicyUpdate] = {}
        """Newest payload of each run, if the engine keeps no versions."""
        self._proven: dict[str, np.ndarray] = {}
        """The engine's probe log-probs when it loaded each run's newest version, if it keeps no versions."""
        self._loaded_run: str | None = None
        self._policies: dict[str, PolicyVersion] = {}
        """Version of each run that was loaded last."""
        self._usage = Usage()
        self._sleeper = Sleeper()
        self._ready: Future[float] = Future()
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        """No message may slip in between the look at `_failure` and the clearing of the inbox."""
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> Future[float]:
        """Resolves to the seconds the engine took to start, or to why it did not."""
        return self._ready

    @property
    def usage(self) -> Usage:
        """The engine's time so far, by purpose."""
        return self._usage

    def submit(self, request: GroupRequest) -> Future[Group]:
        """Sample a group with the version that this worker serves when the request is admitted."""
        return self._post(_Submit(request))

    def deliver(self, payload: PolicyUpdate) -> Future[SyncAck]:
        """Loads a version (after the groups in flight, where the engine holds one at a time) and answers what
        the engine then says of the probe."""
        return self._post(_Deliver(payload))

    def sleep(self) -> Future[float]:
        """Put the engine to sleep once nothing is out, until there is new work; resolves to the seconds it took."""
        return self._post(_Sleep())

    def forget(self, run: str) -> None:
        """The run has ended: what it has under way or waiting is given up, and its versions go."""
        self._inbox.put(_Forget(run))

    def stop(self) -> None:
        """Ends the thread after the current step; what is still out fails."""
        self._inbox.put(_Stop())
        self._thread.join(timeout=30)

    def _post(self, message):  # type: ignore[no-untyped-def]
        with self._failing:
            if self._failure is None:
                self._inbox.put(message)
            else:
                message.future.set_exception(self._told(self._failure))
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
        while (message := self._next_message()) is not None:
            if isinstance(message, _Stop):
                return False
            if isinstance(message, _Forget):
                self._forget(engine, message.run)
            elif isinstance(message, _Sleep):
                self._sleeper.ask(message.future)
                self._sleeper.settle(engine, idle=not (self._out or self._turns))
            else:
                cost = message.num_samples / message.request.share if isinstance(message, _Submit) else 0.0
                self._turns.put(message.run, message, cost)
        if engine.keeps_versions:
            while (message := self._turns.take(lambda head: self._may_go_on(engine, head))) is not None:
                self._handle(engine, message)
        else:
            self._take_turns(engine)
        if self._out:
            started = time.perf_counter()
            self._resolve(engine.poll())
            self._count(busy_s=time.perf_counter() - started)
        self._sleeper.settle(engine, idle=not (self._out or self._turns))
        return True

    def _next_message(self) -> _Message | None:
        """Next message; None if nothing came and there is other work."""
        if not self._inbox.empty() or not (self._out or self._turns):
            return self._inbox.get()
        if self._out or not (patience_s := self._turns.patience_s):
            return None
        started = time.perf_counter()
        try:
            return self._inbox.get(timeout=patience_s)
        except queue.Empty:
            return None
        finally:
            self._count(kept_s=time.perf_counter() - started)

    def _may_go_on(self, engine: Engine, message: _Submit | _Deliver) -> bool:
        """Whether the engine may take the message now.

        Groups of several runs wait here rather than in the engine, which serves first come, first served.
        """
        if isinstance(message, _Deliver) or self._turns.num_runs == 1:
            return True
        running = sum(submit.num_samples for submit in self._out.values())
        return running < FILL * engine.max_sequences

    def _take_turns(self, engine: Engine) -> None:
        """Gives the engine what it may have now: more groups of the run it works for, or, once it is empty, the next
        version or the next run."""
        while True:
            while isinstance(self._turns.head(), _Submit) and not self._turns.slice_is_over:
                if not self._has_version_loaded(engine):
                    break
                self._handle(engine, self._turns.pop())
            head = self._turns.head()
            if self._out and not (isinstance(head, _Deliver) and self._begins_anew(head.payload.policy)):
                return
            if isinstance(head, _Deliver):
                self._handle(engine, self._turns.pop())
            elif self._turns.patience_s or not self._turns.advance():
                return

    def _has_version_loaded(self, engine: Engine) -> bool:
        """Whether the engine serves the current run; loads its newest version if nothing runs."""
        run = self._turns.current
        assert run is not None
        if run != self._loaded_run and run in self._newest:
            if self._out:
                return False
            self._sleeper.wake(engine)
            started = time.perf_counter()
            payload = self._newest[run]
            engine.load(payload)
            _check_return(engine.probe(payload.probe.sequences), self._proven[run], payload.policy, self.name)
            self._loaded_run = run
            self._count(returns=1, return_s=time.perf_counter() - started)
        return True

    def _handle(self, engine: Engine, message: _Submit | _Deliver) -> None:
        self._sleeper.wake(engine)
        if isinstance(message, _Submit):
            self._admit(engine, message)
        else:
            self._deliver(engine, message)

    def _admit(self, engine: Engine, message: _Submit) -> None:
        number = next(self._numbers)
        self._out[number] = message
        try:
            engine.submit(replace(message.request, group_id=number))
        except PolyrayError as error:  # this request cannot be served; the engine is fine
            del self._out[number]
            message.future.set_exception(error)

    def _deliver(self, engine: Engine, message: _Deliver) -> None:
        payload = message.payload
        try:
            if self._begins_anew(payload.policy):
                self._give_up(engine, payload.policy.run, f"{payload.policy.name} begins anew")
            digest = sha256_of(payload.tensors)
            if digest != payload.policy.sha256:
                raise WeightSyncError(
                    f"{payload.policy.name} arrived damaged at {self.name}: its sha256 does not match"
                )
            started = time.perf_counter()
            engine.load(payload)
            loaded = time.perf_counter()
            logprobs = engine.probe(payload.probe.sequences)
        except BaseException as error:
            message.future.set_exception(error)
            if isinstance(error, WeightSyncError):
                return  # refused, and nothing changed: the engine keeps its version
            # An engine that failed inside a reload may serve anything: it is discarded as a whole.
            raise
        self._policies[payload.policy.run] = payload.policy
        self._count(loads=1, load_s=loaded - started)
        if not engine.keeps_versions:
            self._newest[payload.policy.run] = payload
            self._proven[payload.policy.run] = logprobs
            self._loaded_run = payload.policy.run
            self._turns.load_took(time.perf_counter() - started)
        message.future.set_result(
            SyncAck(
                self.name,
                digest,
                logprobs,
                loaded - started,
                time.perf_counter() - loaded,
            )
        )

    def _begins_anew(self, policy: PolicyVersion) -> bool:
        before = self._policies.get(policy.run)
        return before is not None and (policy.attempt != before.attempt or policy.version <= before.version)

    def _forget(self, engine: Engine, run: str) -> None:
        self._give_up(engine, run, "its run has ended")
        for message in self._turns.forget(run):
            message.future.set_exception(RolloutError(f"run {run} has ended"))
        self._newest.pop(run, None)
        self._proven.pop(run, None)
        self._policies.pop(run, None)
        engine.forget(run)

    def _give_up(self, engine: Engine, run: str, why: str) -> None:
        """Abort a run's unfinished groups."""
        if self._out:
            self._resolve(engine.poll())
        for number, message in list(self._out.items()):
            if message.run == run:
                engine.abort(number)
                del self._out[number]
                message.future.set_exception(
                    RolloutError(f"group {message.request.group_id} was given up: {why}")
                )

    def _resolve(self, groups: list[Group]) -> None:
        for group in groups:
            message = self._out.pop(group.group_id)
            message.future.set_result(replace(group, group_id=message.request.group_id))

    def _count(self, **more: float) -> None:
        sums = {name: getattr(self._usage, name) + value for name, value in more.items()}
        self._usage = replace(self._usage, **sums)

    def _fail(self, error: BaseException) -> None:
        messages = [*self._out.values(), *self._turns.drain()]
        waiting: list[Future[Any]] = [message.future for message in messages]
        waiting += self._sleeper.give_up()
        self._out.clear()
        with self._failing:
            self._failure = error
            while not self._inbox.empty():
                message = self._inbox.get()
                if isinstance(message, _Submit | _Deliver | _Sleep):
                    waiting.append(message.future)
        for future in waiting:
            if not future.done():
                future.set_exception(self._told(error))

    def _told(self, failure: BaseException) -> BaseException:
        """Error for waiting callers: the engine is gone, or the user's mistake that ends the run."""
        if is_user_error(failure):
            return failure
        return RolloutError(f"engine of {self.name} is gone: {type(failure).__name__}: {failure}")


def _check_return(now: np.ndarray, proven: np.ndarray, policy: PolicyVersion, worker: str) -> None:
    """Raises WeightSyncMismatch where a version that was brought back answers otherwise than when it was proven."""
    difference = float(np.abs(now - proven).mean()) if now.shape == proven.shape else np.inf
    if not difference <= RETURN_NATS:  # not a number is wrong, too
        raise WeightSyncMismatch(
            f"worker {worker} does not serve {policy.name} after another run's turn: its log-probs of the probe "
            f"tokens changed by {difference:.3g} (mean), tolerance {RETURN_NATS:.3g}"
        )
