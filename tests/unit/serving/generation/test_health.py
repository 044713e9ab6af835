"""Is the engine well: idle, busy, slow, hanging, dead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyray.errors import RolloutError
from polyray.serving.generation.health import EngineHealth
from tests.unit.serving.generation.test_sampling import engine_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def health_of(engine: Any, clock: Clock, timeout_s: float = 10.0) -> EngineHealth:
    return EngineHealth(engine, (1,), "base", timeout_s, clock)


async def test_an_idle_engine_answers_a_canary() -> None:
    engine = engine_of()
    await health_of(engine, Clock()).check()
    assert engine.progress == 1


async def test_canary_without_an_answer_fails_after_its_timeout() -> None:
    engine = engine_of()
    engine.hold = asyncio.Event()
    with pytest.raises(RolloutError, match=r"canary .*0\.05 s"):
        await health_of(engine, Clock(), timeout_s=0.05).check()
    assert engine.in_flight == 0


async def test_a_canary_without_a_token_is_no_answer() -> None:
    with pytest.raises(RolloutError, match="token"):
        await health_of(engine_of(tokens=0), Clock()).check()


async def test_a_busy_engine_is_asked_for_its_progress_and_gets_no_canary() -> None:
    engine, clock = engine_of(), Clock()
    health = health_of(engine, clock)
    engine.in_flight = 5
    for _ in range(4):
        clock.now += 9
        engine.progress += 1
        await health.check()
    assert engine.progress == 4
    clock.now += 10
    await health.check()
    clock.now += 1
    with pytest.raises(RolloutError, match=r"5 completions .*11 s.* 10 s"):
        await health.check()


async def test_idle_time_is_no_standstill() -> None:
    engine, clock = engine_of(), Clock()
    health = health_of(engine, clock)
    clock.now += 1000
    await health.check()
    clock.now += 5
    engine.in_flight = 1
    await health.check()


async def test_error_of_a_dead_engine_has_its_cause() -> None:
    engine = engine_of()
    engine.failure = RuntimeError("out of memory")
    with pytest.raises(RolloutError, match="out of memory"):
        await health_of(engine, Clock()).check()
