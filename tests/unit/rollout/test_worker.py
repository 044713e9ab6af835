"""The engine thread: deliveries are gates, a broken engine fails everything, a bad request fails alone."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyray.errors import ConfigError, DataError, RolloutError, WeightSyncError
from polyray.models.adapter import AdapterShape, Magnified, PolicyUpdate, sha256_of
from polyray.rollout.engine import Engine
from polyray.rollout.worker import RolloutWorker
from tests.unit.rollout.scripted_engine import (
    WAIT_S,
    ScriptedEngine,
    failed_with,
    payload,
    request,
    running,
    text,
)


def test_groups_in_flight_finish_on_their_version_and_later_ones_carry_the_new() -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate)
    with running(engine) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        gate.clear()
        before = [worker.submit(request(0, polls=5)), worker.submit(request(1, polls=2))]
        assert engine.polling.wait(WAIT_S)  # both sides of the delivery are queued while the engine decodes
        ack = worker.deliver(payload(2))
        after = [worker.submit(request(2, polls=3)), worker.submit(request(3))]
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
    with running(engine) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        gate.clear()
        engine.polling.clear()
        before = worker.submit(request(0, polls=50))
        assert engine.polling.wait(WAIT_S)
        ack = worker.deliver(payload(2))
        after = worker.submit(request(1, polls=2))
        gate.set()
        assert ack.result(WAIT_S).worker == "rollout-0"
        assert after.result(WAIT_S).policy.version == 2
        assert before.result(WAIT_S).policy.version == 1
    order = engine.events
    assert order.index("load 2") < order.index("submit 1") < order.index("finish 1") < order.index("finish 0")
    assert engine.closed


@pytest.mark.parametrize("keeps_versions", [True, False])
@pytest.mark.parametrize("anew", [payload(2, attempt=2), payload(2), payload(0)])
def test_groups_in_flight_are_aborted_on_a_new_history_and_may_be_resubmitted(
    keeps_versions: bool, anew: PolicyUpdate
) -> None:
    gate = threading.Event()
    gate.set()
    engine = ScriptedEngine(gate, keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(2)).result(WAIT_S)
        gate.clear()
        engine.polling.clear()
        before = [worker.submit(request(7, polls=1000)), worker.submit(request(8))]
        assert engine.polling.wait(WAIT_S)
        ack = worker.deliver(anew)
        again = worker.submit(request(7, polls=3))
        gate.set()
        failed_with(before[0], RolloutError, r"group 7 .*policy-a\d-v\d-\w+")
        assert before[1].result(WAIT_S).policy == payload(2).policy  # it had finished
        assert ack.result(WAIT_S).sha256 == anew.policy.sha256
        assert again.result(WAIT_S).policy == anew.policy
    assert sum(event.startswith("finish") for event in engine.events) == 2


@pytest.mark.parametrize("keeps_versions", [True, False])
@pytest.mark.parametrize("damaged", [payload(2), payload(2, tensors=b"weighfs")], ids=["refused", "damaged"])
def test_a_version_that_is_refused_costs_the_engine_nothing(
    damaged: PolicyUpdate, keeps_versions: bool
) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        engine._load_error = WeightSyncError("lora_B does not match: not finite")
        before = worker.submit(request(0, polls=3))
        failed_with(worker.deliver(damaged), WeightSyncError, "match")
        after = worker.submit(request(1))
        assert [before.result(WAIT_S).policy.version, after.result(WAIT_S).policy.version] == [1, 1]


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_magnified_adapter_is_probed_before_its_version_serves(keeps_versions: bool) -> None:
    update = magnified_payload(1)
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        ack = worker.deliver(update).result(WAIT_S)
        assert ack.magnified is not None and ack.sha256 == update.policy.sha256
        assert worker.submit(request(0)).result(WAIT_S).policy == update.policy
        assert worker.deliver(payload(2)).result(WAIT_S).magnified is None
    assert [event for event in engine.events if event.startswith("load")] == [
        "load ~magnified1", "load 1", "load 2"
    ]  # fmt: skip


def magnified_payload(version: int) -> PolicyUpdate:
    larger = Magnified(64.0, np.array([-3.0], np.float32), np.zeros((2, 1)))
    update = replace(payload(version), shape=AdapterShape(4, 8.0, ("q_proj",)))
    return replace(update, probe=replace(update.probe, magnified=larger))


def refusing(refused: PolicyUpdate, *, keeps_versions: bool) -> ScriptedEngine:
    """An engine that loads everything but one version."""
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    load = engine.load

    def refuse(asked: PolicyUpdate) -> None:
        if asked.policy == refused.policy:
            raise WeightSyncError("no room")
        load(asked)

    engine.load = refuse  # type: ignore[method-assign]
    return engine


def test_engine_of_one_version_is_given_up_when_it_holds_a_magnified_adapter() -> None:
    update = magnified_payload(1)
    with running(refusing(update, keeps_versions=False)) as worker:
        failed_with(worker.deliver(update), WeightSyncError, "no room")
        failed_with(worker.submit(request(0)), RolloutError, "no room")


def test_engine_that_keeps_versions_still_serves_the_one_before_a_refused_one() -> None:
    update = magnified_payload(2)
    with running(refusing(update, keeps_versions=True)) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        failed_with(worker.deliver(update), WeightSyncError, "no room")
        assert worker.failure is None
        assert list(worker.held()) == [payload(1).policy.name]


def test_magnified_adapter_leaves_the_engine_after_its_probe() -> None:
    update = magnified_payload(1)
    with running(ScriptedEngine(keeps_versions=True)) as worker:
        ack = worker.deliver(update).result(WAIT_S)
        assert ack.magnified is not None
        assert list(worker.held()) == [update.policy.name]


def test_another_error_ends_an_engine_that_keeps_versions_too() -> None:
    engine = ScriptedEngine(load_error=RuntimeError("out of memory"), keeps_versions=True)
    with running(engine) as worker:
        failed_with(worker.deliver(payload(1)), RuntimeError, "out of memory")
        failed_with(worker.submit(request(0)), RolloutError, "engine of rollout-0 is gone")
    assert engine.closed


def test_acknowledgement_holds_engine_logprobs_and_payload_hash() -> None:
    with running(ScriptedEngine()) as worker:
        ack = worker.deliver(payload(4)).result(WAIT_S)
    assert ack.sha256 == sha256_of(b"weights")
    assert ack.logprobs.tolist() == [-0.5, -0.75]
    assert min(ack.load_s, ack.probe_s) >= 0


def test_an_engine_that_fails_while_loading_fails_everything_out_and_every_later_call() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate, load_error=RuntimeError("half reloaded"))
    with running(engine) as worker:
        in_flight = worker.submit(request(0))
        assert engine.polling.wait(WAIT_S)
        delivery = worker.deliver(payload(1))
        waiting = worker.submit(request(1))
        another = worker.deliver(payload(2))
        gate.set()
        assert in_flight.result(WAIT_S).group_id == 0  # it was done before the load
        failed_with(delivery, RuntimeError, "^half reloaded$")
        gone = "engine of rollout-0 is gone: RuntimeError: half reloaded"
        failed_with(waiting, RolloutError, gone)
        failed_with(another, RolloutError, gone)
        failed_with(worker.submit(request(2)), RolloutError, "half reloaded")
        failed_with(worker.deliver(payload(3)), RolloutError, "half reloaded")
    assert engine.events == ["submit 0", "finish 0", "load 1"]


def test_an_engine_that_fails_before_it_could_load_fails_the_delivery_at_once() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate)
    with running(engine) as worker:
        worker.submit(request(0, polls=3))
        assert engine.polling.wait(WAIT_S)
        delivery = worker.deliver(payload(1))  # waits for the group
        engine._left.clear()
        engine._left[99] = [None, 0, {1, 2}]  # the next poll raises
        gate.set()
        failed_with(delivery, RolloutError, "rollout-0 .*: ValueError: too many values")
    assert engine.events == ["submit 0"]


def test_damaged_bytes_never_reach_the_engine() -> None:
    engine = ScriptedEngine()
    with running(engine) as worker:
        failed_with(worker.deliver(payload(1, tensors=b"weighfs")), WeightSyncError, "sha256")
    assert engine.events == []


def test_a_bad_request_fails_alone() -> None:
    engine = ScriptedEngine()
    with running(engine) as worker:
        good = worker.submit(request(0, polls=3))
        bad = worker.submit(request(1, text="refused"))
        later = worker.submit(request(2))
        failed_with(bad, DataError, r"\b99 tokens.*\b16\b")
        assert (good.result(WAIT_S).group_id, later.result(WAIT_S).group_id) == (0, 2)
        assert worker.usage.busy_s > 0


def test_a_defect_of_the_engine_in_submit_is_not_a_bad_request() -> None:
    with running(ScriptedEngine()) as worker:
        failing = worker.submit(request(0, text="explodes"))
        failed_with(failing, RolloutError, "ZeroDivisionError")
        failed_with(worker.submit(request(1)), RolloutError, "engine of rollout-0 is gone")


def test_an_engine_that_cannot_start_says_why() -> None:
    def fails() -> Engine:
        raise MemoryError("no room for the cache")

    worker = RolloutWorker("rollout-3", fails)
    failed_with(worker.ready, MemoryError, "no room for the cache")
    failed_with(worker.submit(request(0)), RolloutError, "engine of rollout-3 is gone")
    worker.stop()


def test_stop_fails_outstanding_requests() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate)
    worker = RolloutWorker("rollout-0", lambda: engine)
    assert worker.ready.result(WAIT_S) >= 0
    out = worker.submit(request(0, polls=10**6))
    assert engine.polling.wait(WAIT_S)
    threading.Timer(0.01, gate.set).start()
    worker.stop()
    failed_with(out, RolloutError, "rollout-0 .*stopped")
    failed_with(worker.submit(request(1)), RolloutError, "was stopped")


def test_a_call_that_meets_the_end_of_the_engine_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may end between a caller's look at the worker's state and the arrival of its message."""
    worker = RolloutWorker("rollout-0", ScriptedEngine)
    worker.ready.result(WAIT_S)
    inbox = worker._inbox

    class SlowInbox:
        def put(self, message: Any) -> None:
            inbox.put(worker._end)
            worker._thread.join(0.3)  # long enough for the thread to end, if nothing keeps it from ending
            inbox.put(message)

        def __getattr__(self, name: str) -> Any:
            return getattr(inbox, name)

    monkeypatch.setattr(worker, "_inbox", SlowInbox())
    failed_with(worker.submit(request(0)), RolloutError, "was stopped")


@pytest.mark.parametrize("keeps_versions", [False, True])
def test_an_engine_sleeps_when_its_groups_are_done_and_work_wakes_it(keeps_versions: bool) -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate, keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(0)).result(WAIT_S)
        group = worker.submit(request(0))
        assert engine.polling.wait(WAIT_S)
        asleep = worker.sleep()
        assert not asleep.done()
        gate.set()
        assert asleep.result(WAIT_S) >= 0.0 and group.done()
        assert worker.sleep().result(WAIT_S) == 0.0  # it does already
        worker.deliver(payload(1)).result(WAIT_S)
        worker.sleep().result(WAIT_S)
        worker.submit(request(1)).result(WAIT_S)
    assert engine.events == [
        *("load 0", "probe", "submit 0", "finish 0", "sleep"),
        *("wake", "load 1", "probe", "sleep"),
        *("wake", "submit 1", "finish 1"),
    ]


def test_pending_sleep_fails_when_the_engine_stops() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate)
    worker = RolloutWorker("rollout-0", lambda: engine)
    worker.deliver(payload(0)).result(WAIT_S)
    worker.submit(request(0, polls=2))
    assert engine.polling.wait(WAIT_S)
    asleep = worker.sleep()
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    gate.set()
    failed_with(asleep, RolloutError, "rollout-0 .*stopped")
    stopping.join(WAIT_S)
    failed_with(worker.sleep(), RolloutError, "engine of rollout-0 is gone")


def test_user_error_is_raised_unchanged_on_every_call() -> None:
    """An engine that is gone would be replaced, again and again."""
    gate = threading.Event()

    def fails() -> Engine:
        assert gate.wait(WAIT_S)
        raise ConfigError("rollout.gpus_per_worker=0; set 1")

    worker = RolloutWorker("rollout-3", fails)
    before = worker.deliver(payload(1))
    gate.set()
    failed_with(worker.ready, ConfigError, "^rollout.gpus_per_worker=0; set 1$")
    failed_with(before, ConfigError, "^rollout.gpus_per_worker=0; set 1$")
    failed_with(worker.submit(request(0)), ConfigError, "^rollout.gpus_per_worker=0; set 1$")
    worker.stop()


def test_cancelled_text_leaves_the_engine_and_groups_continue() -> None:
    engine = ScriptedEngine(keeps_versions=True)
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with running(engine) as worker:
        cancel = worker.submit_text(text(), parts.put)
        assert [parts.get(timeout=WAIT_S).text for _ in range(2)] == ["x", "x"]
        group = worker.submit(request(0, polls=3))
        cancel()
        cancel()
        assert group.result(WAIT_S).group_id == 0
        assert engine.events.count("abort 0") == 1 and not engine._texts
        assert worker.submit(request(1)).result(WAIT_S).group_id == 1


def test_text_that_is_cancelled_before_its_turn_never_enters() -> None:
    gate = threading.Event()
    engine = ScriptedEngine(gate)
    with running(engine) as worker:
        before = worker.submit(request(0))
        assert engine.polling.wait(WAIT_S)
        worker.submit_text(text(), lambda part: None)()
        gate.set()
        assert before.result(WAIT_S).group_id == 0
        assert worker.submit(request(1)).result(WAIT_S).group_id == 1
    assert [event for event in engine.events if event.startswith("text")] == []


def test_text_outlives_its_run_and_a_new_history() -> None:
    engine = ScriptedEngine(keeps_versions=True)
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with running(engine) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        worker.submit_text(text(), parts.put)
        worker.deliver(payload(1)).result(WAIT_S)
        worker.forget("")
        assert all(parts.get(timeout=WAIT_S).text == "x" for _ in range(20))
        assert "abort 0" not in engine.events
    while not isinstance(last := parts.get(timeout=WAIT_S), BaseException):
        assert last.text == "x"
    assert isinstance(last, RolloutError)


def test_text_of_a_dead_engine_gets_the_error() -> None:
    with running(ScriptedEngine()) as worker:
        failed_with(worker.submit(request(0, text="explodes")), RolloutError, "ZeroDivisionError")
        parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        worker.submit_text(text(), parts.put)
        assert isinstance(parts.get(timeout=WAIT_S), RolloutError)
        assert isinstance(worker.failure, ZeroDivisionError)
