"""Faults of workers, coordinator and rewards, on simulated engines: real processes are killed, stopped, garbled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.fleet import Fleet, open_fleet
from polyray.actors.rollout_pool import RolloutPool
from polyray.config.run import TrainConfig
from tests.chaos.simulated import SimulatedRun

pytestmark = pytest.mark.chaos
STEPS = 8


@pytest.fixture(scope="module")
def chaos_config(train_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    def build(name: str, **changes: Any) -> TrainConfig:
        common = {"rollout__engine": "simulated", "rollout__num_workers": 3, "rollout__max_staleness": 2}
        return train_config(name, learner__steps=STEPS, **{**common, **changes})

    return build


@pytest.fixture(scope="module")
def simulated_fleet(ray_session: None, chaos_config: Callable[..., TrainConfig]) -> Iterator[Fleet]:
    """Three engines without a model, and the verifier."""
    with open_fleet(chaos_config("fleet"), "chaos") as fleet:
        fleet.pool.wait_until_ready()
        yield fleet


@pytest.fixture
def start(simulated_fleet: Fleet) -> Iterator[Callable[[TrainConfig], SimulatedRun]]:
    runs: list[SimulatedRun] = []

    def begin(config: TrainConfig) -> SimulatedRun:
        runs.append(SimulatedRun(config, simulated_fleet))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def pid_of(pool: RolloutPool, index: int) -> int:
    info: Any = ray.get(pool.workers[index].handle.ready.remote())
    return info["pid"]


def is_gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("number", "timeout_s"), [(signal.SIGKILL, 60.0), (signal.SIGSTOP, 2.0)])
def test_a_worker_that_is_killed_or_stopped_costs_nothing_but_time(
    number: signal.Signals,
    timeout_s: float,
    chaos_config: Callable[..., TrainConfig],
    simulated_fleet: Fleet,
    start: Callable[[TrainConfig], SimulatedRun],
) -> None:
    name = f"worker-{number.name.lower()}"
    run = start(chaos_config(name, rollout__group_timeout_s=timeout_s, delivery__timeout_s=timeout_s))
    pool = simulated_fleet.pool
    pid, victim = pid_of(pool, 1), pool.workers[1].name

    def break_it(step: int) -> None:
        if step == 2:
            os.kill(pid, number)

    assert run.learn(STEPS, break_it) == "done"
    run.check()
    deadline = time.monotonic() + 30
    while not (incidents := run.incidents()) and time.monotonic() < deadline:
        time.sleep(0.1)  # a stopped worker that nobody needed is found at the next deadline
    assert [item["kind"] for item in incidents] == ["worker_replaced"]
    assert incidents[0]["message"].startswith(f"rollout worker {victim} was replaced by ")
    assert is_gone(pid)


def test_a_coordinator_that_is_killed_ends_the_learner_and_a_new_one_goes_on(
    chaos_config: Callable[..., TrainConfig], start: Callable[[TrainConfig], SimulatedRun]
) -> None:
    run = start(chaos_config("coordinator"))

    def kill(step: int) -> None:
        if step == 3:
            ray.kill(run.coordinator)

    with pytest.raises(ray.exceptions.RayActorError):
        run.learn(STEPS, kill)
    run.start_coordinator()
    assert run.learn(STEPS) == "done"
    run.check()
    assert {line["attempt"] for line in run.lines} == {1, 2}


def test_a_drained_run_goes_on_where_it_ended(
    chaos_config: Callable[..., TrainConfig], start: Callable[[TrainConfig], SimulatedRun]
) -> None:
    run = start(chaos_config("drained"))

    def drain(step: int) -> None:
        if step == 3:
            ray.get(run.coordinator.drain.remote())

    assert run.learn(STEPS, drain) == "drained"
    assert [line["step"] for line in run.lines] == [0, 1, 2]
    ray.kill(run.coordinator)
    run.start_coordinator()
    assert run.learn(STEPS) == "done"
    run.check()
