"""An engine and a learner that share a GPU work in turn: the engine sleeps before the learner has its batch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyray.config.learner import LearnerSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.orchestrator.coordinator import NOT_READY
from tests.unit.orchestrator.fakes import (
    DIED,
    FakePool,
    FakeWorker,
    batch_of,
    ids_of,
    make_config,
    make_coordinator,
    make_payload,
    started,
    until,
)

pytestmark = pytest.mark.usefixtures("no_ray")


def sharing(**sections: Any) -> TrainConfig:
    return make_config(**sections, rollout={"num_workers": 1, "sleep_between_steps": True})


async def test_the_engine_sleeps_while_the_learner_has_a_batch_and_wakes_for_the_next_version() -> None:
    pool = FakePool(1)
    (engine,) = pool.made
    coordinator = await started(pool, sharing())
    for step in range(3):
        assert not engine.asleep
        assert ids_of(await batch_of(coordinator, step)) == [3 * step, 3 * step + 1, 3 * step + 2]
        assert engine.asleep and engine.sleeps == step + 1
        await coordinator.publish(make_payload(step + 1))
    assert await coordinator.failure() is None


async def test_engine_does_not_sleep_without_the_setting() -> None:
    pool = FakePool(1)
    coordinator = await started(pool, make_config(rollout={"num_workers": 1}))
    await batch_of(coordinator, 0)
    assert pool.made[0].sleeps == 0


async def test_a_batch_waits_until_the_fixed_prompts_are_sampled() -> None:
    pool = FakePool(1)
    (engine,) = pool.made
    evaluation = {"every": 1, "num_prompts": 3, "num_samples": 2}
    coordinator = make_coordinator(pool, sharing(evaluation=evaluation))
    validating = asyncio.Event()
    summary, engine_summary = asyncio.Event(), type(engine.validate)._summary

    async def held(self: Any, payload: Any) -> Any:
        validating.set()
        await summary.wait()
        return await engine_summary(self, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.validate), "_summary", held)
        await coordinator.begin_attempt(None)
        await coordinator.publish(make_payload(0))
        await asyncio.wait_for(validating.wait(), 2)
        waiting = asyncio.create_task(batch_of(coordinator, 0))
        await until(lambda: coordinator._buffer.num_buffered == 3)
        await asyncio.sleep(0.05)
        assert not waiting.done() and engine.sleeps == 0
        summary.set()
        assert ids_of(await asyncio.wait_for(waiting, 2)) == [0, 1, 2]
    assert engine.asleep


async def test_the_replacement_of_an_engine_that_cannot_sleep_sleeps_before_the_learner_has_its_batch() -> (
    None
):
    pool = FakePool(1)
    pool.made[0].cannot_sleep = DIED
    slow: list[asyncio.Event] = []

    def starts_slowly(worker: FakeWorker) -> None:
        worker.delivery_gate = asyncio.Event()
        slow.append(worker.delivery_gate)

    pool.broken = starts_slowly
    coordinator = await started(pool, sharing())
    waiting = asyncio.create_task(batch_of(coordinator, 0))
    await until(lambda: len(pool.made) == 2 and pool.made[1].loading == 1)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    slow[0].set()
    assert ids_of(await asyncio.wait_for(waiting, 2)) == [0, 1, 2]
    assert pool.made[1].delivered == [0] and pool.made[1].asleep
    await coordinator.publish(make_payload(1))
    assert ids_of(await batch_of(coordinator, 1)) == [3, 4, 5] and pool.made[1].sleeps == 2


async def test_the_learner_is_told_to_ask_again_while_an_engine_takes_long_to_fall_asleep() -> None:
    pool = FakePool(1)
    gate = pool.made[0].sleep_gate = asyncio.Event()
    coordinator = await started(pool, sharing())
    for _ in range(3):
        assert await asyncio.wait_for(coordinator.next_batch(1, 0, 0, 1), 1) == NOT_READY
    gate.set()
    assert ids_of(await batch_of(coordinator, 0)) == [0, 1, 2] and pool.made[0].sleeps == 1


async def test_engine_sleeps_after_a_learner_failure_until_restart_and_version() -> None:
    pool = FakePool(1)
    (engine,) = pool.made
    engine.held = asyncio.Event()
    coordinator = await started(pool, sharing())
    await asyncio.sleep(0.01)
    assert len(engine.requests) == 3
    failing = asyncio.create_task(coordinator.learner_failed("rank 0 died"))
    engine.held.set()
    await asyncio.wait_for(failing, 2)
    assert engine.asleep and len(engine.requests) == 3
    assert await coordinator.begin_attempt(None) == 2
    assert engine.asleep
    await coordinator.publish(make_payload(0, attempt=2))
    await until(lambda: len(engine.requests) == 6)
    assert not engine.asleep


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RolloutSpec(sleep_between_steps=True, max_staleness=1), "max_staleness=1"),
        (lambda: make_config(rollout={"sleep_between_steps": True}), "rollout.num_workers=2"),
        (lambda: sharing(learner={"num_workers": 2}), "learner.num_workers=2"),
        (
            lambda: make_config(rollout={"num_workers": 1, "max_workers": 3, "sleep_between_steps": True}),
            "rollout.num_workers=3",
        ),
        (lambda: LearnerSpec(num_workers=2, gpus_per_worker=0.5), "GPU"),
    ],
)
def test_unsupported_gpu_sharing_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_ranks_may_have_more_than_half_a_gpu_each() -> None:
    assert LearnerSpec(num_workers=2, gpus_per_worker=0.6).gpus_per_worker == 0.6
