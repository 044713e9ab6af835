"""Gauges are set periodically, because Ray drops values without an update."""

from __future__ import annotations

import asyncio
import builtins
import logging
import threading
from collections.abc import Iterator
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
from tests.unit.serving.reward_service_fixtures import HALF, PROMPT, constant, python_plan, service_of

RAY_DROPS_AFTER_S = 20.0

Set = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Set:
    """(name, value, tags) of every gauge of ours that is set."""
    found: Set = []

    def record(gauge: Any, value: float, tags: dict[str, str] | None = None) -> None:
        if gauge.info["name"].startswith("polyray_"):
            found.append((gauge.info["name"], value, dict(tags or {})))

    monkeypatch.setattr(Gauge, "set", record)
    return found


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    builtins.gauge_gate = threading.Event()  # type: ignore[attr-defined]
    yield builtins.gauge_gate  # type: ignore[attr-defined]
    builtins.gauge_gate.set()  # type: ignore[attr-defined]


class Clock:
    """Passes when it is waited for; the task that waits is cancelled after so many times."""

    def __init__(self, num_waits: int) -> None:
        self.now, self._left = 0.0, num_waits

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._left -= 1
        if not self._left:
            raise asyncio.CancelledError


async def test_gauge_is_set_before_ray_drops_its_value() -> None:
    clock, seen = Clock(num_waits=4), []
    with pytest.raises(asyncio.CancelledError):
        await keep_set(lambda: seen.append(clock.now), clock.sleep)
    assert seen == [0.0, 5.0, 10.0, 15.0] and 3 * SET_EVERY_S < RAY_DROPS_AFTER_S


async def test_failed_gauge_is_one_warning_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise ValueError("no agent")

    with caplog.at_level(logging.WARNING, "polyray.serving.gauges"):
        await asyncio.wait_for(keep_set(fail), 5)
    (record,) = caplog.records
    assert "ValueError: no agent" in record.getMessage()


async def test_a_queue_behind_a_call_that_hangs_is_seen_growing(
    values: Set, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "SET_EVERY_S", 0.01)
    source = constant(0.5, before="import builtins", inside="builtins.gauge_gate.wait(20)")
    service = RewardService(service_of({"a": python_plan(HALF)}, max_batch_size=1)._spec)
    await service.reconfigure(ReplicaConfiguration({"mine": python_plan(source)}).as_json())

    async def until(queued: int) -> None:
        async with asyncio.timeout(10):
            while not values or values[-1] != ("polyray_reward_queued", queued, {"model": "mine"}):
                await asyncio.sleep(0.005)

    await until(0)  # from the start, before anybody asks
    asking = [asyncio.create_task(service.score_group(Prompt("1", PROMPT), ["a"]))]
    await asyncio.sleep(0.05)  # its batch has begun and hangs
    asking += [asyncio.create_task(service.score_group(Prompt("2", PROMPT), ["b"])) for _ in range(3)]
    await until(3)
    gate.set()
    await asyncio.gather(*asking)
    await until(0)


def test_a_generation_replica_sets_all_of_its_gauges(values: Set) -> None:
    replica: Any = SimpleNamespace(metrics=GenerationMetrics(), sampler=SimpleNamespace(queued=5, running=3))
    GenerationService._set_gauges(replica)
    prefix = "polyray_generation_"
    load = [(f"{prefix}queued_sequences", 5, {}), (f"{prefix}running_sequences", 3, {})]
    assert values == load  # no adapter was proven yet
    replica.metrics.adapter("loaded", difference=2e-6)
    values.clear()
    replica.sampler = SimpleNamespace(queued=0, running=1)
    GenerationService._set_gauges(replica)
    load = [(f"{prefix}queued_sequences", 0, {}), (f"{prefix}running_sequences", 1, {})]
    assert values == [*load, (f"{prefix}delivery_difference", 2e-6, {})]
