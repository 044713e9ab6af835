"""Several runs on one fleet have separate histories despite dead workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

from polyray.config.run import TrainConfig
from polyray.launch.fleet import Fleet, open_reward
from polyray.launch.plan import plan_fleet
from polyray.orchestrator.rollout_pool import SharedPool
from polyray.rewards import plan_reward
from polyray.rollout.engine import EngineSettings
from tests.chaos.simulated import SimulatedRun

pytestmark = pytest.mark.chaos
STEPS = 6
RUNS = ("a", "b", "c")


@pytest.fixture(scope="module")
def shared_config(train_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    common = {"rollout__engine": "simulated", "rollout__num_workers": 2, "rollout__max_staleness": 1}
    latencies = {"step_s": 0.01, "load_s": 0.02}
    return lambda name, **changes: train_config(
        name, learner__steps=STEPS, **{**common, "rollout__simulation": latencies, **changes}
    )


@pytest.fixture(scope="module")
def shared_fleet(ray_session: None, shared_config: Callable[..., TrainConfig]) -> Iterator[Fleet]:
    """Two engines without a model under a keeper, and the verifier."""
    config = shared_config("shared")
    pool = SharedPool("shared", config.rollout)
    engine = plan_fleet(config).engine
    assert isinstance(engine, EngineSettings)
    pool.build(engine)
    with open_reward("shared", plan_reward(config.reward, config.task, config.diversity)) as reward:
        pool.wait_until_ready()
        yield Fleet(pool, reward)
    pool.shutdown()


def test_shared_engine_that_dies_is_replaced_once_for_all_runs(
    shared_fleet: Fleet, shared_config: Callable[..., TrainConfig]
) -> None:
    pool = shared_fleet.pool
    assert isinstance(pool, SharedPool)
    runs = {
        name: SimulatedRun(shared_config(name, seed=seed), Fleet(pool.for_run(name), shared_fleet.reward))
        for seed, name in enumerate(RUNS)
    }
    victim = pool.workers[1].name
    info: Any = ray.get(pool.workers[1].handle.ready.remote())
    killed = threading.Event()

    def kill_once(step: int) -> None:
        if step == 2 and not killed.is_set():
            killed.set()
            os.kill(info["pid"], signal.SIGKILL)

    with ThreadPoolExecutor(len(RUNS)) as threads:
        ends = [threads.submit(run.learn, STEPS, kill_once) for run in runs.values()]
        assert [end.result(timeout=120) for end in ends] == ["done"] * len(RUNS)
    replacements = set()
    for run in runs.values():
        run.check()
        for incident in run.incidents():
            assert incident["kind"] == "worker_replaced"
            assert incident["message"].startswith(f"rollout worker {victim} was replaced by ")
            replacements.add(incident["message"].split(" was replaced by ")[1].split(":")[0])
    now = pool.for_run("").workers
    assert replacements == {now[1].name} and now[0].name == pool.workers[0].name

    # The run that ends, or is ended, leaves nothing behind, and the others go on.
    usage: Any = ray.get(now[0].handle.usage.remote())
    assert usage.loads >= len(RUNS) * STEPS
    pool.forget("a")
    for run in runs.values():
        ray.kill(run.coordinator)
    late = SimulatedRun(shared_config("late"), Fleet(pool.for_run("late"), shared_fleet.reward))
    assert late.learn(STEPS) == "done"
    late.check()
    ray.kill(late.coordinator)
