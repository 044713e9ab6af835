"""The engine thread: deliveries are gates, a broken engine fails everything, a bad request fails alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from polyray.delivery.adapter import AdapterPayload, Probe, sha256_of
from polyray.errors import DataError, DeliveryError, RolloutError
from polyray.rollout.engine import Engine
from polyray.rollout.worker import RolloutWorker, _Stop
from polyray.types import Completion, Group, GroupRequest, PolicyVersion, Prompt

WAIT_S = 5.0
PROMPT = Prompt("p", "37|b1>e4=")


class ScriptedEngine:
    """A group needs `seeds[0]` polls and carries the version that was served at every one of them; where the
    engine keeps versions, that of its submission.

    `gate` holds a poll back until the test opens it; `events` records what the thread did, in order.
    """

    def __init__(
        self,
        gate: threading.Event | None = None,
        load_error: Exception | None = None,
        keeps_versions: bool = False,
    ) -> None:
        self.keeps_versions = keeps_versions
        self.closed = False
        self.load_s = 0.0
        self.events: list[str] = []
        self.polling = threading.Event()
        self._gate = gate
        self._load_error = load_error
        self._policies = {"": PolicyVersion(0, -1, "")}
        """The newest of every run, or the one that is loaded."""
        self._left: dict[int, list[Any]] = {}

    @property
    def idle(self) -> bool:
        return not self._left

    def submit(self, request: GroupRequest) -> None:
        if request.prompt.text == "refused":
            raise DataError("prompt 'p' has 99 tokens, the limit is 16")
        if request.prompt.text == "explodes":
            raise ZeroDivisionError("a defect of the engine")
        self.events.append(f"submit {request.run}{request.group_id}")
        policy = self._policies[request.run]
        self._left[request.group_id] = [request, request.seeds[0], {policy} if self.keeps_versions else set()]

    def poll(self) -> list[Group]:
        self.polling.set()
        if self._gate is not None:
            assert self._gate.wait(WAIT_S)
        finished = []
        for group_id, entry in list(self._left.items()):
            entry[1] -= 1
            if not self.keeps_versions:
                entry[2] |= set(self._policies.values())
            if entry[1] <= 0:
                del self._left[group_id]
                finished.append(_group(entry[0], entry[2]))
                self.events.append(f"finish {group_id}")
        return finished

    def abort(self, group_id: int) -> None:
        self._left.pop(group_id, None)

    def drain(self) -> list[Group]:
        finished: list[Group] = []
        while not self.idle:
            finished.extend(self.poll())
        return finished

    def load(self, payload: AdapterPayload) -> None:
        assert self.idle or self.keeps_versions
        self.events.append(f"load {payload.policy.run}{payload.policy.version}")
        if self._load_error is not None:
            raise self._load_error
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


class SimulatedLike(ScriptedEngine):
    """Refuses, as real engines do, what no version is loaded for."""

    def submit(self, request: GroupRequest) -> None:
        if request.run not in self._policies:
            raise RolloutError(f"no version of run {request.run} is loaded")
        super().submit(request)


def _group(request: GroupRequest, versions: set[PolicyVersion]) -> Group:
    (policy,) = versions  # a group that met two versions is a mixture: the unpacking fails
    completion = Completion(
        np.array([23], np.int32), np.array([-1.0], np.float32), "U", "stop", request.seeds[0]
    )
    return Group(request.group_id, request.prompt, np.array([1], np.int32), (completion,), policy)


def _request(group_id: int, polls: int = 1, text: str = PROMPT.text, run: str = "") -> GroupRequest:
    return GroupRequest(group_id, Prompt("p", text), (polls,), max_completion_tokens=10, run=run)


def _payload(version: int, tensors: bytes = b"weights", attempt: int = 1, run: str = "") -> AdapterPayload:
    probe = Probe(((1, 2), (1, 2, 3)), np.zeros(2, np.float32), None)
    policy = PolicyVersion(attempt, version, sha256_of(b"weights"), run)
    return AdapterPayload(policy, tensors, None, probe)


@contextmanager
def _running(engine: Engine) -> Iterator[RolloutWorker]:
    worker = RolloutWorker("rollout-0", lambda: engine)
    yield worker
    worker.stop()


def _failed_with(future: Future[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        future.result(WAIT_S)


def test_groups_in_flight_finish_on_their_version_and_later_ones_carry_the_new() -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate)
    with _running(engine) as worker:
        worker.deliver(_payload(1)).result(WAIT_S)
        gate.clear()
        before = [worker.submit(_request(0, polls=5)), worker.submit(_request(1, polls=2))]
        assert engine.polling.wait(WAIT_S)  # both sides of the delivery are queued while the engine decodes
        ack = worker.deliver(_payload(2))
        after = [worker.submit(_request(2, polls=3)), worker.submit(_request(3))]
        gate.set()
        assert [future.result(WAIT_S).policy.version for future in before] == [1, 1]
        assert [future.result(WAIT_S).policy.version for future in after] == [2, 2]
        assert ack.result(WAIT_S).worker == "rollout-0"
    order = engine.events
    assert order.index("finish 0") < order.index("load 2") < order.index("submit 2")
    assert order.index("finish 1") < order.index("load 2") < order.index("submit 3")


def test_an_engine_that_keeps_versions_loads_while_groups_run() -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate, keeps_versions=True)
    with _running(engine) as worker:
        worker.deliver(_payload(1)).result(WAIT_S)
        gate.clear()
        engine.polling.clear()
        before = worker.submit(_request(0, polls=50))
        assert engine.polling.wait(WAIT_S)
        ack = worker.deliver(_payload(2))
        after = worker.submit(_request(1, polls=2))
        gate.set()
        assert ack.result(WAIT_S).worker == "rollout-0"
        assert after.result(WAIT_S).policy.version == 2
        assert before.result(WAIT_S).policy.version == 1
    order = engine.events
    assert order.index("load 2") < order.index("submit 1") < order.index("finish 1") < order.index("finish 0")
    assert engine.closed


@pytest.mark.parametrize("keeps_versions", [True, False])
@pytest.mark.parametrize("anew", [_payload(2, attempt=2), _payload(2), _payload(0)])
def test_what_is_under_way_when_a_history_begins_anew_is_given_up_and_may_come_again(
    keeps_versions: bool, anew: AdapterPayload
) -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate, keeps_versions=keeps_versions)
    with _running(engine) as worker:
        worker.deliver(_payload(2)).result(WAIT_S)
        gate.clear()
        engine.polling.clear()
        before = [worker.submit(_request(7, polls=1000)), worker.submit(_request(8))]
        assert engine.polling.wait(WAIT_S)
        ack = worker.deliver(anew)
        again = worker.submit(_request(7, polls=3))
        gate.set()
        _failed_with(before[0], RolloutError, r"group 7 was given up: policy-a\d-v\d-\w+ begins anew")
        assert before[1].result(WAIT_S).policy == _payload(2).policy  # it had finished
        assert ack.result(WAIT_S).sha256 == anew.policy.sha256
        assert again.result(WAIT_S).policy == anew.policy
    assert sum(event.startswith("finish") for event in engine.events) == 2


@pytest.mark.parametrize("keeps_versions", [True, False])
@pytest.mark.parametrize(
    "payload", [_payload(2), _payload(2, tensors=b"weighfs")], ids=["refused", "damaged"]
)
def test_a_version_that_is_refused_costs_the_engine_nothing(
    payload: AdapterPayload, keeps_versions: bool
) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with _running(engine) as worker:
        worker.deliver(_payload(1)).result(WAIT_S)
        engine._load_error = DeliveryError("lora_B does not match: not finite")
        before = worker.submit(_request(0, polls=3))
        _failed_with(worker.deliver(payload), DeliveryError, "does not match")
        after = worker.submit(_request(1))
        assert [before.result(WAIT_S).policy.version, after.result(WAIT_S).policy.version] == [1, 1]


def test_another_error_ends_an_engine_that_keeps_versions_too() -> None:
    engine = ScriptedEngine(load_error=RuntimeError("out of memory"), keeps_versions=True)
    with _running(engine) as worker:
        _failed_with(worker.deliver(_payload(1)), RuntimeError, "out of memory")
        _failed_with(worker.submit(_request(0)), RolloutError, "engine of rollout-0 is gone")
    assert engine.closed


def test_an_acknowledgement_holds_what_the_engine_said_and_the_hash_of_what_arrived() -> None:
    with _running(ScriptedEngine()) as worker:
        ack = worker.deliver(_payload(4)).result(WAIT_S)
    assert ack.sha256 == sha256_of(b"weights")
    assert ack.logprobs.tolist() == [-0.5, -0.75]
    assert min(ack.load_s, ack.probe_s) >= 0


def test_an_engine_that_fails_while_loading_fails_everything_out_and_every_later_call() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate, load_error=RuntimeError("half reloaded"))
    with _running(engine) as worker:
        in_flight = worker.submit(_request(0))
        assert engine.polling.wait(WAIT_S)
        delivery = worker.deliver(_payload(1))
        waiting = worker.submit(_request(1))
        another = worker.deliver(_payload(2))
        gate.set()
        assert in_flight.result(WAIT_S).group_id == 0  # it was done before the load
        _failed_with(delivery, RuntimeError, "^half reloaded$")
        gone = "engine of rollout-0 is gone: RuntimeError: half reloaded"
        _failed_with(waiting, RolloutError, gone)
        _failed_with(another, RolloutError, gone)
        _failed_with(worker.submit(_request(2)), RolloutError, "half reloaded")
        _failed_with(worker.deliver(_payload(3)), RolloutError, "half reloaded")
    assert engine.events == ["submit 0", "finish 0", "load 1"]


def test_an_engine_that_fails_before_it_could_load_fails_the_delivery_at_once() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate)
    with _running(engine) as worker:
        worker.submit(_request(0, polls=3))
        assert engine.polling.wait(WAIT_S)
        delivery = worker.deliver(_payload(1))  # waits for the group
        engine._left.clear()
        engine._left[99] = [None, 0, {1, 2}]  # the next poll raises
        gate.set()
        _failed_with(delivery, RolloutError, "engine of rollout-0 is gone: ValueError: too many values")
    assert engine.events == ["submit 0"]


def test_damaged_bytes_never_reach_the_engine() -> None:
    engine = ScriptedEngine()
    with _running(engine) as worker:
        _failed_with(worker.deliver(_payload(1, tensors=b"weighfs")), DeliveryError, "sha256 does not match")
    assert engine.events == []


def test_a_bad_request_fails_alone() -> None:
    engine = ScriptedEngine()
    with _running(engine) as worker:
        good = worker.submit(_request(0, polls=3))
        bad = worker.submit(_request(1, text="refused"))
        later = worker.submit(_request(2))
        _failed_with(bad, DataError, "99 tokens, the limit is 16")
        assert (good.result(WAIT_S).group_id, later.result(WAIT_S).group_id) == (0, 2)
        assert worker.usage.busy_s > 0


def test_a_defect_of_the_engine_in_submit_is_not_a_bad_request() -> None:
    with _running(ScriptedEngine()) as worker:
        failing = worker.submit(_request(0, text="explodes"))
        _failed_with(failing, RolloutError, "ZeroDivisionError: a defect of the engine")
        _failed_with(worker.submit(_request(1)), RolloutError, "engine of rollout-0 is gone")


def test_an_engine_that_cannot_start_says_why() -> None:
    def fails() -> Engine:
        raise MemoryError("no room for the cache")

    worker = RolloutWorker("rollout-3", fails)
    _failed_with(worker.ready, MemoryError, "no room for the cache")
    _failed_with(worker.submit(_request(0)), RolloutError, "engine of rollout-3 is gone")
    worker.stop()


def test_stopping_fails_what_is_out() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate)
    worker = RolloutWorker("rollout-0", lambda: engine)
    assert worker.ready.result(WAIT_S) >= 0
    out = worker.submit(_request(0, polls=10**6))
    assert engine.polling.wait(WAIT_S)
    threading.Timer(0.01, gate.set).start()
    worker.stop()
    _failed_with(out, RolloutError, "worker rollout-0 was stopped")
    _failed_with(worker.submit(_request(1)), RolloutError, "was stopped")


def test_a_call_that_meets_the_end_of_the_engine_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may end between a caller's look at the worker's state and the arrival of its message."""
    worker = RolloutWorker("rollout-0", ScriptedEngine)
    worker.ready.result(WAIT_S)
    inbox = worker._inbox

    class SlowInbox:
        def put(self, message: Any) -> None:
            inbox.put(_Stop())
            worker._thread.join(0.3)  # long enough for the thread to end, if nothing keeps it from ending
            inbox.put(message)

        def __getattr__(self, name: str) -> Any:
            return getattr(inbox, name)

    monkeypatch.setattr(worker, "_inbox", SlowInbox())
    _failed_with(worker.submit(_request(0)), RolloutError, "was stopped")


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_runs_that_share_an_engine_use_the_same_ids_and_each_gets_its_own_version(
    keeps_versions: bool,
) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with _running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(_payload(0, run=run))
        futures = {
            (run, number): worker.submit(_request(number, polls=number + 1, run=run))
            for number in range(3)
            for run in ("a", "b")
        }
        again = worker.deliver(_payload(1, run="b"))
        after = worker.submit(_request(0, run="b"))
        for (run, number), future in futures.items():
            group = future.result(WAIT_S)
            assert (group.group_id, group.policy.run, group.policy.version) == (number, run, 0)
        assert again.result(WAIT_S).worker == "rollout-0"
        assert after.result(WAIT_S).policy == _payload(1, run="b").policy
        assert worker.usage.loads == 3


def test_a_run_keeps_the_engine_while_it_has_groups_and_is_loaded_again_once_a_turn() -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate)
    engine.load_s = 0.05  # slices of 1.7 s
    with _running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(_payload(0, run=run)).result(WAIT_S)
        gate.clear()
        engine.polling.clear()
        futures = [worker.submit(_request(9, run="b"))]
        assert engine.polling.wait(WAIT_S)
        for number in range(3):
            futures += [worker.submit(_request(number, polls=2, run=run)) for run in ("a", "b")]
        gate.set()
        for future in futures:
            future.result(WAIT_S)
        usage = worker.usage
    turns = [event[:8] for event in engine.events if event.startswith("submit") or event == "load a0"]
    assert turns == ["load a0"] + ["submit b"] * 4 + ["load a0"] + ["submit a"] * 3
    assert (usage.loads, usage.returns) == (2, 1)
    assert usage.return_s >= 0.05


def test_a_run_that_was_given_nothing_is_refused_and_the_others_go_on() -> None:
    with _running(SimulatedLike()) as worker:
        worker.deliver(_payload(0, run="a")).result(WAIT_S)
        _failed_with(worker.submit(_request(0, run="b")), RolloutError, "no version of run b")
        assert worker.submit(_request(0, run="a")).result(WAIT_S).policy.run == "a"


def test_a_new_history_of_one_run_leaves_the_groups_of_the_others_alone() -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate, keeps_versions=True)
    with _running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(_payload(3, run=run)).result(WAIT_S)
        gate.clear()
        engine.polling.clear()
        before = {run: worker.submit(_request(5, polls=50, run=run)) for run in ("a", "b")}
        assert engine.polling.wait(WAIT_S)
        anew = worker.deliver(_payload(0, attempt=2, run="a"))
        gate.set()
        _failed_with(before["a"], RolloutError, "group 5 was given up: policy-a-a2-v0")
        assert before["b"].result(WAIT_S).policy == _payload(3, run="b").policy
        assert anew.result(WAIT_S).worker == "rollout-0"
