"""Gauges are set periodically, because Ray drops values without an update."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.util.metrics import Gauge

from polyray.serving import gauges
from polyray.serving.gauges import SET_EVERY_S, keep_set
from polyray.serving.generation.metrics import GenerationMetrics
from polyray.serving.generation.service import GenerationService
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.service import RewardService
from polyray.types import Prompt
from tests.unit.serving.reward_service_fixtures import PROMPT, WAITING, python_plan, spec_of

RAY_DROPS_AFTER_S = 20.0

Set = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Set:
    """(name, value, tags) of every gauge of polyray that is set."""
    found: Set = []

    def record(gauge: Any, value: float, tags: dict[str, str] | None = None) -> None:
        if gauge.info["name"].startswith("polyray_"):
            found.append((gauge.info["name"].removeprefix("polyray_"), value, dict(tags or {})))

    monkeypatch.setattr(Gauge, "set", record)
    return found


async def test_gauge_is_set_before_ray_drops_its_value() -> None:
    now, seen = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if len(seen) == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await keep_set(lambda: seen.append(now), sleep)
    assert seen == [0.0, 5.0, 10.0, 15.0] and 3 * SET_EVERY_S < RAY_DROPS_AFTER_S


async def test_gauge_failure_is_one_warning_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("no agent")

    with caplog.at_level(logging.WARNING, "polyray.serving.gauges"):
        await asyncio.wait_for(keep_set(fail), 5)
    (record,) = caplog.records
    assert "ValueError: no agent" in record.getMessage()


async def test_gauge_of_the_reward_queue_grows_behind_a_hanging_call(
    values: Set, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "SET_EVERY_S", 0.01)
    service = RewardService(spec_of(max_batch_size=1))
    await service.reconfigure(ReplicaConfiguration({"mine": python_plan(WAITING)}).as_json())

    async def until(queued: int) -> None:
        async with asyncio.timeout(10):
            while not values or values[-1] != ("reward_queued", queued, {"model": "mine"}):
                await asyncio.sleep(0.005)

    await until(0)  # from the start, before the first request
    asking = [asyncio.create_task(service.score_group(Prompt("1", PROMPT), ["a"]))]
    await asyncio.sleep(0.05)  # its batch has begun and hangs
    asking += [asyncio.create_task(service.score_group(Prompt("2", PROMPT), ["b"])) for _ in range(3)]
    await until(3)
    gate.set()
    await asyncio.gather(*asking)
    await until(0)


def test_gauges_of_a_generation_replica_are_all_set(values: Set) -> None:
    replica: Any = SimpleNamespace(metrics=GenerationMetrics(), sampler=SimpleNamespace(queued=5, running=3))
    GenerationService._set_gauges(replica)
    load = [("generation_queued_sequences", 5, {}), ("generation_running_sequences", 3, {})]
    assert values == load  # no adapter was verified yet
    replica.metrics.adapter("loaded", difference=2e-6)
    values.clear()
    GenerationService._set_gauges(replica)
    assert values == [*load, ("generation_delivery_difference", 2e-6, {})]
