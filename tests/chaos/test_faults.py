"""One test per class of fault, with real processes killed or lying."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.fleet import Fleet
from jobs.train import train
from polyray.actors.rollout_pool import PoolWorker, RolloutActor
from polyray.config.run import TrainConfig
from polyray.delivery.adapter import AdapterPayload
from polyray.delivery.proof import DeliveryAck
from polyray.errors import PolicyNotDelivered, RewardError
from polyray.observability.jsonl import read_jsonl
from polyray.observability.progress import ProgressDisplay
from polyray.observability.run_directory import RunDirectory, RunPaths
from polyray.rewards import reward_source
from polyray.types import is_timing_key
from services.reward.run import start_reward_service, stop_reward_service

pytestmark = pytest.mark.chaos
MakeConfig = Callable[..., TrainConfig]


def run(config: TrainConfig, fleet: Fleet) -> RunPaths:
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        train(config, directory, fleet, display)
        return directory.paths


class LyingActor(RolloutActor):
    """Acknowledges every version after the first without loading it."""

    async def deliver(self, payload: AdapterPayload) -> tuple[DeliveryAck, float]:
        if payload.policy.version == 0:
            self._loaded = payload
        kept = replace(self._loaded, probe=payload.probe)
        ack, busy_s = await super().deliver(kept)
        return replace(ack, sha256=payload.policy.sha256), busy_s


@pytest.fixture
def lying_fleet(fleet: Fleet, train_config: MakeConfig) -> Iterator[Fleet]:
    """The session's fleet with one lying worker instead of its own."""
    pool = copy.copy(fleet.pool)
    settings = fleet.pool.settings
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    handle = (
        ray.remote(LyingActor).options(max_concurrency=100, runtime_env=environment).remote("liar", settings)
    )
    pool.workers = [PoolWorker(0, "liar", handle)]
    yield Fleet(pool, fleet.reward)
    ray.kill(handle)


def test_worker_that_lies_is_found_out(lying_fleet: Fleet, train_config: MakeConfig) -> None:
    config = train_config("liar", learner__learning_rate=0.05)
    with pytest.raises(
        PolicyNotDelivered, match=r"worker liar does not serve policy-a1-v1-\w+: .*tolerance 0\.0001"
    ):
        run(config, lying_fleet)
    assert read_jsonl(config.run_dir / "metrics.jsonl") == []
    assert not (config.run_dir / "DONE").exists()


def test_garbage_rewards_end_the_run_with_the_reason(
    fleet: Fleet, train_config: MakeConfig, tmp_path: Path
) -> None:
    reward = tmp_path / "garbage.py"
    reward.write_text("def score(items):\n    return ['good'] * len(items)\n")
    config = train_config(
        "garbage", reward={"type": "python", "path": f"{reward}:score", "service": {"port": 0}}
    )
    address = start_reward_service("garbage", config.reward, config.task, reward_source(config.reward))
    try:
        with pytest.raises(RewardError, match=r"max_unscored_share=0\.25.*good"):
            run(config, Fleet(fleet.pool, address))
    finally:
        stop_reward_service("garbage")


def test_killed_rollout_worker_is_replaced_and_the_run_stays_the_same(
    fleet: Fleet, train_config: MakeConfig
) -> None:
    unbroken = run(train_config("unbroken", learner__steps=6), fleet)
    pid = ray.get(fleet.pool.workers[1].handle.ready.remote())["pid"]
    config = train_config("worker-killed", learner__steps=6)
    killer = threading.Thread(target=_kill_after_steps, args=(config.run_dir / "metrics.jsonl", 2, pid))
    killer.start()
    broken = run(config, fleet)
    killer.join()
    assert _reproducible(broken) == _reproducible(unbroken)
    fleet.pool.repair()


def _kill_after_steps(metrics: Path, steps: int, pid: int) -> None:
    deadline = time.monotonic() + 120
    while len(read_jsonl(metrics)) < steps and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)


def _reproducible(paths: RunPaths) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if not is_timing_key(key)}
        for line in read_jsonl(paths.metrics)
    ]
