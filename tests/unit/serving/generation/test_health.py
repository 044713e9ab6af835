"""Health of the engine: idle, busy, slow, hanging, dead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyray.errors import RolloutError
from polyray.serving.generation.health import EngineHealth
from tests.unit.serving.generation.operation_fixtures import Clock
from tests.unit.serving.generation.test_sampling import engine_of


def health_of(engine: Any, clock: Clock | None = None, timeout_s: float = 10.0) -> EngineHealth:
    return EngineHealth(engine, (1,), "base", timeout_s, clock or Clock(100.0))


async def test_health_of_an_idle_engine_is_a_canary() -> None:
    engine = engine_of()
    await health_of(engine).check()
    assert engine.progress == 1
    with pytest.raises(RolloutError, match="token"):
        await health_of(engine_of(tokens=0)).check()
    engine.hold = asyncio.Event()
    with pytest.raises(RolloutError, match=r"canary .*0\.05 s"):
        await health_of(engine, timeout_s=0.05).check()
    assert engine.in_flight == 0


async def test_health_of_a_busy_engine_is_its_progress() -> None:
    engine, clock = engine_of(), Clock(100.0)
    health = health_of(engine, clock)
    clock.now_s += 1000  # idle time is no standstill
    await health.check()
    canaries = engine.progress
    engine.in_flight = 5
    for _ in range(4):
        clock.now_s += 9
        engine.progress += 1
        await health.check()
    assert engine.progress == canaries + 4
    clock.now_s += 10
    await health.check()
    clock.now_s += 1
    with pytest.raises(RolloutError, match=r"5 completions .*11 s.* 10 s"):
        await health.check()


async def test_health_of_a_dead_engine_names_the_cause() -> None:
    engine = engine_of()
    engine.failure = RuntimeError("out of memory")
    with pytest.raises(RolloutError, match="out of memory"):
        await health_of(engine).check()
