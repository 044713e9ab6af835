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

GONE = "engine of rollout-0 is gone"


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_groups_in_flight_finish_on_their_version_and_later_ones_carry_the_new(keeps_versions: bool) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        ack = worker.deliver(payload(1)).result(WAIT_S)
        assert (ack.worker, ack.sha256, ack.logprobs.tolist()) == (
            "rollout-0",
            sha256_of(b"weights"),
            [-0.5, -0.75],
        )
        with engine.held_back():  # both sides of the delivery are queued while the engine decodes
            before = [worker.submit(request(0, polls=50)), worker.submit(request(1, polls=2))]
            ack = worker.deliver(payload(2))
            after = [worker.submit(request(2, polls=3)), worker.submit(request(3))]
        assert [future.result(WAIT_S).policy.version for future in before] == [1, 1]
        assert [future.result(WAIT_S).policy.version for future in after] == [2, 2]
        assert ack.result(WAIT_S).worker == "rollout-0"
    order = engine.events.index
    assert order("load 2") < order("submit 2") < order("submit 3")
    assert (order("load 2") < order("finish 0")) is keeps_versions
    assert (order("finish 2") < order("finish 0")) is keeps_versions
    assert engine.closed


@pytest.mark.parametrize("keeps_versions", [True, False])
@pytest.mark.parametrize("anew", [payload(2, attempt=2), payload(2), payload(0)])
def test_groups_in_flight_are_aborted_on_a_new_history_and_may_be_resubmitted(
    keeps_versions: bool, anew: PolicyUpdate
) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(2)).result(WAIT_S)
        with engine.held_back():
            before = [worker.submit(request(7, polls=1000)), worker.submit(request(8))]
            engine.next_poll()
            ack = worker.deliver(anew)
            again = worker.submit(request(7, polls=3))
        failed_with(before[0], RolloutError, r"group 7 .*policy-a\d-v\d-\w+")
        assert before[1].result(WAIT_S).policy == payload(2).policy  # it had finished
        assert ack.result(WAIT_S).sha256 == anew.policy.sha256
        assert again.result(WAIT_S).policy == anew.policy
    assert sum(event.startswith("finish") for event in engine.events) == 2


@pytest.mark.parametrize("keeps_versions", [True, False])
@pytest.mark.parametrize("damaged", [payload(2), payload(2, tensors=b"weighfs")], ids=["refused", "damaged"])
def test_refused_version_leaves_the_engine_as_it_was(damaged: PolicyUpdate, keeps_versions: bool) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        engine.load_error = WeightSyncError("lora_B does not match: not finite")
        before = worker.submit(request(0, polls=3))
        failed_with(worker.deliver(damaged), WeightSyncError, "match")
        after = worker.submit(request(1))
        assert [before.result(WAIT_S).policy.version, after.result(WAIT_S).policy.version] == [1, 1]
    assert ("load 2" in engine.events) is (
        damaged.tensors == b"weights"
    )  # damaged bytes never reach the engine


def magnified_payload(version: int) -> PolicyUpdate:
    larger = Magnified(64.0, np.array([-3.0], np.float32), np.zeros((2, 1)))
    update = replace(payload(version), shape=AdapterShape(4, 8.0, ("q_proj",)))
    return replace(update, probe=replace(update.probe, magnified=larger))


def test_call_that_meets_the_end_of_the_engine_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_magnified_adapter_is_probed_before_its_version_and_leaves_the_engine(keeps_versions: bool) -> None:
    update = magnified_payload(1)
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        ack = worker.deliver(update).result(WAIT_S)
        assert ack.magnified is not None and ack.sha256 == update.policy.sha256
        assert worker.submit(request(0)).result(WAIT_S).policy == update.policy
        assert list(worker.held()) == [update.policy.name]
        assert worker.deliver(payload(2)).result(WAIT_S).magnified is None
    loads = [event for event in engine.events if event.startswith("load")]
    assert loads == ["load ~magnified1", "load 1", "load 2"]


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_version_refused_after_its_magnified_adapter_ends_an_engine_of_one_version(
    keeps_versions: bool,
) -> None:
    update = magnified_payload(2)
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(1)).result(WAIT_S)
        engine.load_error, engine.refused = WeightSyncError("no room"), update.policy
        failed_with(worker.deliver(update), WeightSyncError, "no room")
        if keeps_versions:
            assert worker.failure is None
            assert list(worker.held()) == [payload(1).policy.name]
        else:
            failed_with(worker.submit(request(0)), RolloutError, "no room")


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_failure_of_a_load_fails_everything_out_and_every_later_call(keeps_versions: bool) -> None:
    engine = ScriptedEngine(load_error=RuntimeError("half reloaded"), keeps_versions=keeps_versions)
    with running(engine) as worker:
        with engine.held_back():
            in_flight = worker.submit(request(0))
            engine.next_poll()
            delivery = worker.deliver(payload(1))
            waiting = worker.submit(request(1)), worker.deliver(payload(2))
        assert in_flight.result(WAIT_S).group_id == 0  # done before the load
        failed_with(delivery, RuntimeError, "^half reloaded$")
        for future in (*waiting, worker.submit(request(2)), worker.deliver(payload(3)), worker.sleep()):
            failed_with(future, RolloutError, f"{GONE}: RuntimeError: half reloaded")
    assert engine.events == ["submit 0", "finish 0", "load 1"] and engine.closed


def test_failure_of_a_step_fails_the_delivery_that_waits_for_it() -> None:
    engine = ScriptedEngine()
    with running(engine) as worker, engine.held_back():
        worker.submit(request(0, polls=3))
        engine.next_poll()
        delivery = worker.deliver(payload(1))  # waits for the group
        engine._left.clear()
        engine._left[99] = [None, 0, {1, 2}]  # the next poll raises
        engine.gate.set()
        failed_with(delivery, RolloutError, "rollout-0 .*: ValueError: too many values")
    assert engine.events == ["submit 0"]


def test_bad_request_fails_alone_and_a_defect_in_submit_ends_the_engine() -> None:
    with running(ScriptedEngine()) as worker:
        good = worker.submit(request(0, polls=3))
        bad = worker.submit(request(1, text="refused"))
        later = worker.submit(request(2))
        failed_with(bad, DataError, r"\b99 tokens.*\b16\b")
        assert (good.result(WAIT_S).group_id, later.result(WAIT_S).group_id) == (0, 2)
        assert worker.usage.busy_s > 0
        failed_with(worker.submit(request(0, text="explodes")), RolloutError, "ZeroDivisionError")
        failed_with(worker.submit(request(1)), RolloutError, GONE)
        parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        worker.submit_text(text(), parts.put)
        assert isinstance(parts.get(timeout=WAIT_S), RolloutError)
        assert isinstance(worker.failure, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "later", "message"),
    [
        (MemoryError("no room"), RolloutError, "engine of rollout-3 is gone"),
        # A user's error stays as it is: an engine that is gone would be replaced, again and again.
        (ConfigError("x=0; set 1"), ConfigError, "^x=0; set 1$"),
    ],
)
def test_engine_that_cannot_start_fails_every_call(
    error: Exception, later: type[Exception], message: str
) -> None:
    gate = threading.Event()

    def fails() -> Engine:
        assert gate.wait(WAIT_S)
        raise error

    worker = RolloutWorker("rollout-3", fails)
    before = worker.deliver(payload(1))
    gate.set()
    failed_with(worker.ready, type(error), f"^{error}$")
    for future in (before, worker.submit(request(0))):
        failed_with(future, later, message)
    worker.stop()


def test_stop_fails_outstanding_requests_and_a_pending_sleep() -> None:
    engine = ScriptedEngine()
    worker = RolloutWorker("rollout-0", lambda: engine)
    assert worker.ready.result(WAIT_S) >= 0
    with engine.held_back():
        out = worker.submit(request(0, polls=10**6))
        engine.next_poll()
        asleep = worker.sleep()
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
    for future in (out, asleep):
        failed_with(future, RolloutError, "rollout-0 .*stopped")
    stopping.join(WAIT_S)
    failed_with(worker.submit(request(1)), RolloutError, "was stopped")
    failed_with(worker.sleep(), RolloutError, GONE)


@pytest.mark.parametrize("keeps_versions", [False, True])
def test_engine_sleeps_after_its_groups_and_work_wakes_it(keeps_versions: bool) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        worker.deliver(payload(0)).result(WAIT_S)
        with engine.held_back():
            group = worker.submit(request(0))
            engine.next_poll()
            asleep = worker.sleep()
            assert not asleep.done()
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


def test_text_that_is_cancelled_before_its_turn_never_enters() -> None:
    engine = ScriptedEngine()
    with running(engine) as worker:
        with engine.held_back():
            before = worker.submit(request(0))
            engine.next_poll()
            worker.submit_text(text(), lambda part: None)()
        assert before.result(WAIT_S).group_id == 0
        assert worker.submit(request(1)).result(WAIT_S).group_id == 1
    assert [event for event in engine.events if event.startswith("text")] == []
