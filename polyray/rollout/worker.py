"""One engine and the one thread that steps it; callers get futures, or parts of texts as they come.

    submit, submit_text --.                                 .--> future of Group, parts of a text
    deliver --------------+--> inbox --> turns --> thread --+--> future of SyncAck
    (any thread)                                            '--> a failure of the engine fails everything still out

A delivery is a gate of its run: requests submitted before it finish on the old version, later ones wait for the new
one. So no group ever mixes versions. If the engine keeps versions, the requests of other runs continue beside it.
Otherwise they finish first, and runs that share the engine take turns: each finds its own newest version loaded.
A version that does not follow its run's previous version begins a new history: running groups of that run are
dropped, because their caller is gone and they may be sampled again. Texts run on: their callers cancel them.
Used by the rollout actor, by the generation service, and directly by tests and benchmarks.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from polyray.errors import PolyrayError, RolloutError, WeightSyncError, WeightSyncMismatch, is_user_error
from polyray.models.adapter import PolicyUpdate, sha256_of
from polyray.rollout.engine import Answer, Engine
from polyray.rollout.fair_queue import FairQueue
from polyray.types import EngineUsage, Group, GroupRequest, PolicyVersion, TextDelta, TextRequest
from polyray.weight_sync.proof import SyncAck

RETURN_NATS = 1e-3
"""Mean difference of a probe from the same engine's earlier answer under the same weights: it is 0 but for the order
of sums on a GPU, while versions of two runs differ by more once they have trained."""
FILL = 2
"""Samples of several runs that an engine holds, in multiples of the sequences that it decodes together: groups with
long last samples leave room."""


@dataclass(slots=True, eq=False)
class _Work:
    """A request or a delivery, which waits for its run's turn, or a call of `sleep` (None)."""

    run: str
    item: GroupRequest | TextRequest | PolicyUpdate | None
    answer: Callable[[Any], None]
    """Takes an answer, or the error instead of it; called in the engine's thread."""
    num_samples: int = 0
    cost: float = 0.0
    number: int = -1
    """Ours, once it is in the engine: runs that share the engine may use the same group ids."""
    cancelled: bool = False


class RolloutWorker:
    """Owns an engine. Thread-safe: every method may be called from anywhere."""

    def __init__(self, name: str, build_engine: Callable[[], Engine]) -> None:
        self.name = name
        self._build_engine = build_engine
        self._inbox: queue.SimpleQueue[_Work | Callable[[], None]] = queue.SimpleQueue()
        self._turns: FairQueue[_Work] = FairQueue()
        self._out: dict[int, _Work] = {}
        """Requests in the engine, by number."""
        self._numbers = itertools.count()
        self._newest: dict[str, tuple[PolicyUpdate, np.ndarray]] = {}
        """Newest payload of each run, with the engine's first answer to its probe, if it keeps no versions."""
        self._loaded_run: str | None = None
        self._policies: dict[str, PolicyVersion] = {}
        """Version of each run that was loaded last."""
        self.usage = EngineUsage()
        """The engine's time so far, by purpose."""
        self._asleep = False
        self._sleeps: list[_Work] = []
        """Calls of `sleep` that wait until nothing is out."""
        self._engine: Engine
        self.ready: Future[float] = _future()
        """Resolves to the seconds the engine took to start, or to why it did not."""
        self.failure: BaseException | None = None
        """The error that ended the engine; None while it is well."""
        self._failing = threading.Lock()
        """No message may slip in between the look at `failure` and the clearing of the inbox."""
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> int:
        """See `Engine.progress`. Raises AttributeError until the engine is ready."""
        return self._engine.progress

    def held(self) -> dict[str, int]:
        """See `Engine.held`. Raises AttributeError until the engine is ready."""
        return self._engine.held()

    def submit(self, request: GroupRequest) -> Future[Group]:
        """Sample a group with the version that this worker serves when the request is admitted."""
        num_samples = len(request.seeds)
        return self._ask(request.run, request, num_samples, num_samples / request.share)

    def submit_text(
        self, request: TextRequest, take: Callable[[TextDelta | BaseException], None]
    ) -> Callable[[], None]:
        """Sample a text; `take` gets its parts, or the error that ends it, in the engine's thread. Returns a
        function that gives the text up: the engine stops decoding it."""
        work = _Work(request.run, request, take, 1, 1.0)
        self._post(work)
        return lambda: self._inbox.put(lambda: self._cancel(work))

    def deliver(self, payload: PolicyUpdate) -> Future[SyncAck]:
        """Loads a version (after the groups in flight, where the engine holds one at a time) and answers what
        the engine then says of the probe."""
        return self._ask(payload.policy.run, payload)

    def sleep(self) -> Future[float]:
        """Put the engine to sleep once nothing is out, until there is new work; resolves to the seconds it took."""
        return self._ask("", None)

    def forget(self, run: str) -> None:
        """The run has ended: its groups are given up and its versions go. Where the engine keeps versions its texts
        finish first, those that wait here too."""
        self._inbox.put(lambda: self._forget(run))

    def stop(self) -> None:
        """Ends the thread after the current step; what is still out fails."""
        self._inbox.put(self._end)
        self._thread.join(timeout=30)

    def _ask(self, run: str, item: GroupRequest | PolicyUpdate | None, *size: Any) -> Future[Any]:
        future = _future()
        self._post(_Work(run, item, partial(_settle, future), *size))
        return future

    def _post(self, work: _Work) -> None:
        with self._failing:
            if self.failure is None:
                self._inbox.put(work)
                return
        work.answer(self._told(self.failure))

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self._engine = self._build_engine()
            self.ready.set_result(time.perf_counter() - started)
            while True:
                self._serve()
        except BaseException as error:
            self._fail(error)
            if self.ready.done():
                self._engine.close()
            else:
                self.ready.set_exception(error)

    def _end(self) -> None:
        raise RolloutError(f"worker {self.name} was stopped")

    def _serve(self) -> None:
        """One turn: take in what is waiting, then one engine step."""
        while (message := self._next_message()) is not None:
            if not isinstance(message, _Work):
                message()
            elif message.item is None:
                self._sleeps.append(message)
                self._sleep_if_idle()
            else:
                self._turns.put(message.run, message, message.cost)
        while (work := self._turns.take(self._may_enter)) is not None:
            if isinstance(work.item, PolicyUpdate):
                self._deliver(work, work.item)
            elif work.item is not None and not work.cancelled:
                self._admit(work, work.item)
        if self._out:
            started = time.perf_counter()
            self._resolve(self._engine.poll())
            self._count(busy_s=time.perf_counter() - started)
        self._sleep_if_idle()

    def _next_message(self) -> _Work | Callable[[], None] | None:
        """Next message; None if nothing came and there is other work."""
        timeout_s = None
        if self._out or self._turns:
            timeout_s = 0.0 if self._out else self._turns.patience_s
        started = time.perf_counter()
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        finally:
            if timeout_s:
                self._count(kept_s=time.perf_counter() - started)

    def _may_enter(self, work: _Work) -> bool:
        """Whether the engine may take the work now. It serves first come, first served, so several runs wait here;
        one that holds a single version takes more of its run or, once it is empty, anything."""
        if self._engine.keeps_versions:
            held = sum(other.num_samples for other in self._out.values())
            one_run, is_update = self._turns.num_runs == 1, isinstance(work.item, PolicyUpdate)
            return one_run or is_update or held < FILL * self._engine.max_sequences
        if not self._out or work.run != self._loaded_run:
            return not self._out
        if isinstance(work.item, PolicyUpdate):
            return self._begins_anew(work.item.policy)
        return not self._turns.slice_is_over

    def _bring_back(self, run: str) -> None:
        """Load a run's newest version for its turn. Raises WeightSyncMismatch where the engine then answers otherwise
        than when the version was proven."""
        started = time.perf_counter()
        payload, proven = self._newest[run]
        self._engine.load(payload)
        difference = float(np.abs(self._engine.probe(payload.probe.sequences) - proven).mean())
        if not difference <= RETURN_NATS:  # not a number is wrong, too
            raise WeightSyncMismatch(
                f"worker {self.name} does not serve {payload.policy.name} after another run's turn: its log-probs of "
                f"the probe tokens changed by {difference:.3g} (mean), tolerance {RETURN_NATS:.3g}"
            )
        self._loaded_run = run
        self._count(returns=1, return_s=time.perf_counter() - started)

    def _admit(self, work: _Work, request: GroupRequest | TextRequest) -> None:
        work.number = next(self._numbers)
        self._out[work.number] = work
        self._wake()
        if work.run != self._loaded_run and work.run in self._newest:
            self._bring_back(work.run)
        try:
            self._engine.submit(work.number, request)
        except PolyrayError as error:  # this request cannot be served; the engine is fine
            del self._out[work.number]
            work.answer(error)

    def _deliver(self, work: _Work, payload: PolicyUpdate) -> None:
        policy, magnified, changed = payload.policy, None, False
        try:
            self._wake()
            if self._begins_anew(policy):
                self._give_up(policy.run, f"{policy.name} begins anew")
            if sha256_of(payload.tensors) != policy.sha256:
                raise WeightSyncError(f"{policy.name} is damaged at {self.name}: its sha256 does not match")
            started = time.perf_counter()
            if (larger := payload.magnified()) is not None:
                self._engine.load(larger)
                changed = not self._engine.keeps_versions
                magnified = self._engine.probe(larger.probe.sequences)
                self._engine.forget(larger.policy.run)
            self._engine.load(payload)
            loaded = time.perf_counter()
            logprobs = self._engine.probe(payload.probe.sequences)
        except BaseException as error:
            work.answer(error)
            if isinstance(error, WeightSyncError) and not changed:
                return  # refused, and nothing changed: the engine keeps its version
            # An engine that failed inside a reload may serve anything: it is discarded as a whole.
            raise
        self._policies[policy.run] = policy
        self._count(loads=1, load_s=loaded - started)
        if not self._engine.keeps_versions:
            self._newest[policy.run] = payload, logprobs
            self._loaded_run = policy.run
            self._turns.load_took(time.perf_counter() - started)
        probe_s = time.perf_counter() - loaded
        work.answer(SyncAck(self.name, policy.sha256, logprobs, loaded - started, probe_s, magnified))

    def _begins_anew(self, policy: PolicyVersion) -> bool:
        before = self._policies.get(policy.run)
        return before is not None and (policy.attempt != before.attempt or policy.version <= before.version)

    def _cancel(self, work: _Work) -> None:
        work.cancelled = True
        if self._out.pop(work.number, None) is not None:
            self._engine.abort(work.number)

    def _forget(self, run: str) -> None:
        self._give_up(run, "its run has ended")
        for work in self._turns.forget(run):
            if isinstance(work.item, TextRequest) and self._engine.keeps_versions and not work.cancelled:
                self._admit(
                    work, work.item
                )  # a service took it on; the engine keeps the version until it has ended
            else:
                work.answer(RolloutError(f"run {run} has ended"))
        self._newest.pop(run, None)
        self._policies.pop(run, None)
        self._engine.forget(run)

    def _give_up(self, run: str, why: str) -> None:
        """Abort a run's unfinished groups, and its texts where the engine holds one version."""
        if self._out:
            self._resolve(self._engine.poll())
        for number, work in list(self._out.items()):
            if work.run == run and (isinstance(work.item, GroupRequest) or not self._engine.keeps_versions):
                self._engine.abort(number)
                del self._out[number]
                name = f"group {work.item.group_id}" if isinstance(work.item, GroupRequest) else "a text"
                work.answer(RolloutError(f"{name} was given up: {why}"))

    def _resolve(self, answers: list[Answer]) -> None:
        for number, answer in answers:
            ended = isinstance(answer, Group) or answer.finish_reason is not None
            work = self._out.pop(number) if ended else self._out[number]
            work.answer(answer)

    def _sleep_if_idle(self) -> None:
        """Put the engine to sleep if that was requested and no work is out."""
        if not self._sleeps or self._out or self._turns:
            return
        took_s = 0.0
        if not self._asleep:
            started = time.perf_counter()
            self._engine.sleep()
            self._asleep, took_s = True, time.perf_counter() - started
        while self._sleeps:
            self._sleeps.pop().answer(took_s)

    def _wake(self) -> None:
        if self._asleep:
            self._engine.wake()
            self._asleep = False

    def _count(self, **more: float) -> None:
        sums = {name: getattr(self.usage, name) + value for name, value in more.items()}
        self.usage = replace(self.usage, **sums)

    def _fail(self, error: BaseException) -> None:
        waiting = [*self._out.values(), *self._turns.drain(), *self._sleeps]
        self._out.clear()
        with self._failing:
            self.failure = error
            while not self._inbox.empty():
                message = self._inbox.get()
                if isinstance(message, _Work):
                    waiting.append(message)
        for work in waiting:
            work.answer(self._told(error))

    def _told(self, failure: BaseException) -> BaseException:
        """Error for waiting callers: the engine is gone, or the user's mistake that ends the run."""
        if is_user_error(failure):
            return failure
        return RolloutError(f"engine of {self.name} is gone: {type(failure).__name__}: {failure}")


def _future() -> Future[Any]:
    """A future that its caller cannot cancel: the answer comes even if nothing waits for it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: Future[Any], answer: Any) -> None:
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
