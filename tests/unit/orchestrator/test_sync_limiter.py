"""Turns of loading: the limit, the order, and those that need no turn."""

from __future__ import annotations

import asyncio

from polyray.orchestrator.sync_limiter import WeightSyncLimiter


class Workers:
    """Workers that load until released; `order` records the order of the starts."""

    def __init__(self, limit: int) -> None:
        self.turns = WeightSyncLimiter(limit)
        self.order: list[str] = []
        self._done: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, *names: str, idle: bool = False) -> None:
        for name in names:
            self._done[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._load(name, idle))
        await settle()

    async def finish(self, name: str) -> None:
        self._done[name].set()
        await settle()

    async def _load(self, name: str, idle: bool) -> None:
        async with self.turns.turn(name, idle):
            self.order.append(name)
            await self._done[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_limited_number_loads_in_arrival_order() -> None:
    workers = Workers(limit=2)
    await workers.begin("a", "b", "c", "d")
    assert workers.order == ["a", "b"]
    await workers.finish("b")
    assert workers.order == ["a", "b", "c"]
    await workers.finish("a")
    assert workers.order == ["a", "b", "c", "d"]


async def test_more_at_a_time_from_now_on_or_fewer() -> None:
    workers = Workers(limit=1)
    await workers.begin("a", "b", "c", "d")
    assert workers.order == ["a"]
    workers.turns.allow(2)
    await settle()
    assert workers.order == ["a", "b"]
    workers.turns.allow(1)
    await workers.finish("a")
    assert workers.order == ["a", "b"]
    await workers.finish("b")
    assert workers.order == ["a", "b", "c"]


async def test_idle_worker_neither_waits_nor_takes_a_turn() -> None:
    workers = Workers(limit=1)
    await workers.begin("a")
    await workers.begin("idle", idle=True)
    await workers.begin("b", "c")
    assert workers.order == ["a", "idle"]
    workers.turns.ran_out("c")
    workers.turns.ran_out("a")  # it is loading: nothing to say
    await settle()
    assert workers.order == ["a", "idle", "c"]
    await workers.finish("c")
    await workers.finish("idle")
    assert workers.order == ["a", "idle", "c"]  # a's turn goes on
    await workers.finish("a")
    assert workers.order == ["a", "idle", "c", "b"]


async def test_a_wait_that_is_given_up_costs_no_turn() -> None:
    workers = Workers(limit=1)
    await workers.begin("a", "b", "c")
    workers.tasks["b"].cancel()
    await settle()
    await workers.finish("a")
    assert workers.order == ["a", "c"]
    await workers.begin("d")
    workers._done["c"].set()
    workers.tasks["d"].cancel()  # at the moment of its turn
    await settle()
    await workers.begin("e")
    assert workers.order == ["a", "c", "e"]
