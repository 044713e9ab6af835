"""Runs that share one engine: turns, shares, and what one of them does leaves the others alone."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import numpy as np
import pytest

from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate
from polyray.types import GroupRequest, PolicyVersion, TextDelta, TextRequest
from tests.unit.rollout.scripted_engine import (
    WAIT_S,
    ScriptedEngine,
    failed_with,
    payload,
    request,
    running,
    text,
)


class SimulatedLike(ScriptedEngine):
    """Refuses, as real engines do, what no version is loaded for."""

    def submit(self, number: int, request: GroupRequest | TextRequest) -> None:
        if request.run not in self._policies:
            raise RolloutError(f"no version of run {request.run} is loaded")
        super().submit(number, request)


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_runs_of_one_engine_may_use_equal_ids_and_get_their_own_versions(
    keeps_versions: bool,
) -> None:
    engine = ScriptedEngine(keeps_versions=keeps_versions)
    with running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(payload(0, run=run))
        futures = {
            (run, number): worker.submit(request(number, polls=number + 1, run=run))
            for number in range(3)
            for run in ("a", "b")
        }
        again = worker.deliver(payload(1, run="b"))
        after = worker.submit(request(0, run="b"))
        for (run, number), future in futures.items():
            group = future.result(WAIT_S)
            assert (group.group_id, group.policy.run, group.policy.version) == (number, run, 0)
        assert again.result(WAIT_S).worker == "rollout-0"
        assert after.result(WAIT_S).policy == payload(1, run="b").policy
        assert worker.usage.loads == 3


def test_text_that_waits_when_its_run_is_forgotten_is_sampled_all_the_same() -> None:
    engine = SimulatedLike(keeps_versions=True)
    parts: queue.SimpleQueue[object] = queue.SimpleQueue()
    with running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(payload(0, run=run)).result(WAIT_S)
        with engine.held_back():
            for number in range(20):
                worker.submit(request(number, polls=30, run="a"))
            engine.next_poll()
            worker.submit_text(text("b"), parts.put)
            worker.submit_text(text("b"), lambda part: None)()  # given up
            worker.forget("b")
        assert isinstance(part := parts.get(timeout=WAIT_S), TextDelta) and part.text == "x"
        assert [event for event in engine.events if event.startswith("text")] == ["text 8"]


def test_run_keeps_the_engine_for_a_slice_and_is_loaded_once_a_turn() -> None:
    engine = ScriptedEngine()
    engine.load_s = 0.05  # slices of 1.7 s
    with running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(payload(0, run=run)).result(WAIT_S)
        with engine.held_back():
            futures = [worker.submit(request(9, run="b"))]
            engine.next_poll()
            for number in range(3):
                futures += [worker.submit(request(number, polls=2, run=run)) for run in ("a", "b")]
        for future in futures:
            future.result(WAIT_S)
        usage = worker.usage
    turns = [event[:8] for event in engine.events if event.startswith("submit") or event == "load a0"]
    assert turns == ["load a0"] + ["submit b"] * 4 + ["load a0"] + ["submit a"] * 3
    assert (usage.loads, usage.returns) == (2, 1)
    assert usage.return_s >= 0.05


def test_just_loaded_run_is_awaited_before_the_next_load() -> None:
    engine = ScriptedEngine()
    engine.load_s = 0.5
    with running(engine) as worker:
        first, second = (worker.deliver(payload(0, run=run)) for run in ("a", "b"))
        first.result(WAIT_S)
        assert worker.submit(request(0, run="a")).result(WAIT_S).policy.run == "a"
        second.result(WAIT_S)
        usage = worker.usage
    assert engine.events == ["load a0", "probe", "submit a0", "finish 0", "load b0", "probe"]
    assert (usage.loads, usage.returns) == (2, 0)
    assert 0 < usage.kept_s < 0.5


def test_run_without_a_version_is_refused_alone() -> None:
    with running(SimulatedLike()) as worker:
        worker.deliver(payload(0, run="a")).result(WAIT_S)
        failed_with(worker.submit(request(0, run="b")), RolloutError, "run b")
        assert worker.submit(request(0, run="a")).result(WAIT_S).policy.run == "a"


def test_new_history_of_one_run_leaves_groups_of_others_alone() -> None:
    engine = ScriptedEngine(keeps_versions=True)
    with running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(payload(3, run=run)).result(WAIT_S)
        with engine.held_back():
            before = {run: worker.submit(request(5, polls=50, run=run)) for run in ("a", "b")}
            engine.next_poll()
            anew = worker.deliver(payload(0, attempt=2, run="a"))
        failed_with(before["a"], RolloutError, "group 5 .*policy-a-a2-v0")
        assert before["b"].result(WAIT_S).policy == payload(3, run="b").policy
        assert anew.result(WAIT_S).worker == "rollout-0"


def test_groups_of_several_runs_enter_a_full_engine_by_their_shares() -> None:
    engine = ScriptedEngine(keeps_versions=True)
    with running(engine) as worker:
        for run in ("a", "b"):
            worker.deliver(payload(0, run=run)).result(WAIT_S)
        with engine.held_back():
            blocker = worker.submit(request(99, run="b", share=3.0))
            engine.next_poll()
            futures = [worker.submit(request(number, run="a", share=1.0)) for number in range(20)]
            futures += [worker.submit(request(number, run="b", share=3.0)) for number in range(20)]
        for future in [blocker, *futures]:
            future.result(WAIT_S)
    entered = [event[len("submit ")] for event in engine.events if event.startswith("submit")][1:]
    assert (len(entered), entered.count("a")) == (40, 20)
    assert entered[:24].count("b") == 18
    assert engine.most_out == 2 * engine.max_sequences


def test_one_run_alone_has_all_its_groups_in_the_engine() -> None:
    engine = ScriptedEngine(keeps_versions=True)
    with running(engine) as worker:
        worker.deliver(payload(0)).result(WAIT_S)
        with engine.held_back():
            first = worker.submit(request(99))
            engine.next_poll()
            futures = [worker.submit(request(number, polls=2)) for number in range(20)]
        for future in [first, *futures]:
            future.result(WAIT_S)
    assert engine.most_out == 20


class ForgetfulEngine(ScriptedEngine):
    """Its probe answers by the weights in it; a load that is not the first of its version leaves them as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._loaded: set[PolicyVersion] = set()
        self._weights = 0.0

    def load(self, payload: PolicyUpdate) -> None:
        super().load(payload)
        if payload.policy not in self._loaded:
            self._weights = float(len(self._loaded))
        self._loaded.add(payload.policy)

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        return super().probe(sequences) - np.float32(0.01 * self._weights)


def test_wrong_reload_on_a_turn_ends_the_worker() -> None:
    with running(ForgetfulEngine()) as worker:
        for run in ("a", "b"):
            worker.deliver(payload(0, run=run)).result(WAIT_S)
        assert worker.submit(request(0, run="b")).result(WAIT_S).policy.run == "b"
        wrong = worker.submit(request(1, run="a"))
        failed_with(wrong, RolloutError, r"another run.*\b0\.01")
        failed_with(worker.submit(request(2, run="b")), RolloutError, "rollout-0 ")
