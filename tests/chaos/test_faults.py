"""One test per class of fault, with real processes killed or lying."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from polyray.config.run import TrainConfig
from polyray.errors import RewardError, WeightSyncMismatch
from polyray.launch.fleet import Fleet, open_fleet
from polyray.launch.plan import plan_fleet
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.rollout_actor import RolloutActor
from polyray.orchestrator.rollout_pool import PoolWorker
from polyray.rewards import plan_reward
from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from polyray.serving.reward.run import start_reward_service, stop_reward_service
from polyray.weight_sync.proof import SyncAck
from tests.conftest import marked_processes, reproducible, run_training, session_mark

pytestmark = pytest.mark.chaos
cloudpickle.register_pickle_by_value(
    sys.modules[__name__]
)  # actors defined here; workers cannot import tests
MakeConfig = Callable[..., TrainConfig]


class LyingActor(RolloutActor):
    """Acknowledges every version after the first without loading it."""

    async def deliver(self, payload: PolicyUpdate) -> tuple[SyncAck, float]:
        if payload.policy.version == 0:
            self._loaded = payload
        kept = replace(self._loaded, probe=payload.probe)
        ack, busy_s = await super().deliver(kept)
        return replace(ack, sha256=payload.policy.sha256), busy_s


@pytest.fixture
def lying_fleet(varied_fleet: Fleet) -> Iterator[Fleet]:
    """One lying worker instead of the fleet's own."""
    fleet = varied_fleet
    pool = copy.copy(fleet.pool)
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    handle = (
        ray.remote(LyingActor)
        .options(max_concurrency=100, runtime_env=environment)
        .remote("liar", fleet.pool.rollout)
    )
    handle.build.remote(fleet.pool.settings)
    pool.workers = [PoolWorker(0, "liar", handle)]
    yield Fleet(pool, fleet.reward)
    ray.kill(handle)  # type: ignore[arg-type]  # Ray annotates its proxies apart from its handles


@pytest.mark.slow  # an engine of its own; test_coordinator.py has a liar in every `make test`
def test_worker_with_wrong_weights_fails_verification(lying_fleet: Fleet, varied_config: MakeConfig) -> None:
    config = varied_config("liar")
    with pytest.raises(WeightSyncMismatch, match=r"liar .*policy-a1-v1-\w+: .*5e-05"):
        run_training(config, lying_fleet)
    assert read_jsonl(config.run_dir / "metrics.jsonl") == []
    assert not (config.run_dir / "DONE").exists()


@pytest.mark.slow  # real engines; simulated ones in every make test
@pytest.mark.parametrize(
    ("name", "scores", "message"),
    [
        ("all-garbage", "'good'", r"\d+ completions .*\(good\)"),
        ("most-garbage", "'good' if at % 6 else 0.5", r"max_unscored_share=0\.25; .*\(good\)"),
    ],
)
def test_garbage_rewards_end_the_run_with_the_reason(
    name: str, scores: str, message: str, fleet: Fleet, train_config: MakeConfig, tmp_path: Path
) -> None:
    """`scores`: score of the item at place `at` of a batch."""
    reward = tmp_path / "garbage.py"
    reward.write_text(f"def score(items):\n    return [{scores} for at, _ in enumerate(items)]\n")
    config = train_config(name, reward={"type": "python", "path": f"{reward}:score", "service": {"port": 0}})
    address = start_reward_service(name, plan_reward(config.reward, config.task, config.diversity))
    try:
        with pytest.raises(RewardError, match=message):
            run_training(config, Fleet(fleet.pool, address))
    finally:
        stop_reward_service(name)


@pytest.mark.slow  # test_simulated_faults.py kills one in every `make test`
def test_killed_rollout_worker_is_replaced_and_the_run_stays_the_same(
    finished: RunPaths, varied_fleet: Fleet, varied_config: MakeConfig
) -> None:
    info: Any = ray.get(varied_fleet.pool.workers[1].handle.ready.remote())
    config = varied_config("worker-killed")
    with killer(config, after_steps=2, pids=lambda: [info["pid"]]):
        broken = run_training(config, varied_fleet)
    lines = [reproducible(run.metrics) for run in (broken, finished)]
    proofs = [line.pop("delivery_difference_max") for line in lines[0] + lines[1]]
    # One delivery more was proven, by another process: not the same to the last bit.
    assert max(proofs) < 1e-4
    assert lines[0] == lines[1]
    assert all(line["grad_norm"] > 0 for line in read_jsonl(finished.metrics))
    varied_fleet.pool.repair()


@pytest.mark.slow  # test_simulated_faults.py kills one in every `make test`
def test_killed_learner_continues_from_its_checkpoint(
    finished: RunPaths, varied_fleet: Fleet, varied_config: MakeConfig
) -> None:
    config = varied_config("learner-killed")
    with killer(config, after_steps=3, pids=learners):
        broken = run_training(config, varied_fleet)
    assert reproducible(broken.metrics) == reproducible(finished.metrics)
    name = "adapter_model.safetensors"
    assert (broken.adapter / name).read_bytes() == (finished.adapter / name).read_bytes()
    manifest = json.loads((broken.root / "versions" / "6" / "polyray.json").read_text())
    assert manifest["attempt"] == 2


@pytest.mark.slow
def test_killed_rank_of_two_that_share_the_base_is_replaced_with_the_other(
    varied_fleet: Fleet, varied_config: MakeConfig
) -> None:
    """The other rank waits for its part and ends with the attempt."""
    shared = {"learner__num_workers": 2, "learner__sharding": "base"}
    unbroken = run_training(varied_config("shared-unbroken", **shared), varied_fleet)
    config = varied_config("shared-killed", **shared)
    with killer(config, after_steps=3, pids=lambda: learners()[:1]):
        broken = run_training(config, varied_fleet)
    assert reproducible(broken.metrics) == reproducible(unbroken.metrics)
    name = "adapter_model.safetensors"
    assert (broken.adapter / name).read_bytes() == (unbroken.adapter / name).read_bytes()
    manifest = json.loads((broken.root / "versions" / "6" / "polyray.json").read_text())
    assert manifest["attempt"] == 2


@pytest.mark.slow
def test_killed_learner_above_staleness_zero_trains_on_the_groups_of_its_checkpoint(
    ray_session: None, train_config: MakeConfig
) -> None:
    config = train_config(
        "learner-killed-stale",
        rollout__engine="simulated",
        rollout__max_staleness=2,
        learner__steps=20,
        learner__checkpoint_every=3,
    )
    with (
        open_fleet(plan_fleet(config), "learner-killed-stale") as fleet,
        killer(config, after_steps=7, pids=learners),
    ):
        run = run_training(config, fleet)  # also checks that every group was consumed once
    assert [item["kind"] for item in read_jsonl(run.incidents)] == ["learner_failed", "learner_restarted"]
    again = [line for line in read_jsonl(run.ledger) if line["attempt"] == 2]
    start = again[0]["step"]
    assert start % 3 == 0 and start >= 6
    # Attempt 2 began with version `start`: what is older was sampled before.
    assert min(again[0]["versions"]) < start


def learners() -> list[int]:
    """The Train workers of this session's own Ray."""
    return [
        pid
        for pid in marked_processes(session_mark())
        if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@contextmanager
def killer(config: TrainConfig, after_steps: int, pids: Callable[[], list[int]]) -> Iterator[None]:
    """Kill the processes of `pids` after that many steps."""
    killed: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + 200
        while len(read_jsonl(config.run_dir / "metrics.jsonl")) < after_steps and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in pids():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()
    assert killed
