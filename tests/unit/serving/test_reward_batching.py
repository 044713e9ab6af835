"""The batcher: budgets, order, isolation and cancellation of callers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.serving.reward.batching import BatchLimits, ServiceOverloaded, TokenBatcher, estimated_tokens


def limits(**changes: Any) -> BatchLimits:
    return BatchLimits(
        **{"max_payloads": 4, "max_tokens": 100, "wait_s": 0.0, "max_queued_batches": 1000, **changes}
    )


class Recorder:
    """Scores nothing; keeps the batches it was given, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, payloads: Sequence[str]) -> list[object]:
        self.batches.append(list(payloads))
        await self.gate.wait()
        return [ValueError(text) if text == "bad" else text.upper() for text in payloads]


async def test_batcher_waiting_requests_form_the_next_batches_in_order() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    batcher = TokenBatcher(recorder.run, limits())
    first = asyncio.create_task(batcher.submit("a", 1))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(batcher.submit(text, 1)) for text in "bcdefg"]
    await asyncio.sleep(0.01)
    assert recorder.batches == [["a"]] and batcher.queued == 6  # nothing is cut before it can run
    recorder.gate.set()
    assert await asyncio.gather(first, *others) == list("ABCDEFG")
    assert recorder.batches == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
    await asyncio.sleep(0.01)
    assert await batcher.submit("h", 1) == "H"  # idle in between


async def test_batcher_that_is_idle_waits_unless_its_batch_is_full() -> None:
    recorder = Recorder()
    batcher = TokenBatcher(recorder.run, limits(wait_s=0.05, max_payloads=2))
    await asyncio.gather(batcher.submit("a", 1), batcher.submit("b", 1))
    slow = TokenBatcher(recorder.run, limits(wait_s=30.0, max_tokens=10))
    assert await asyncio.wait_for(slow.submit("c", 10), 1.0) == "C"
    assert recorder.batches == [["a", "b"], ["c"]]


async def test_batcher_error_reaches_its_own_caller_only() -> None:
    batcher = TokenBatcher(Recorder().run, limits())
    calls = (batcher.submit(text, 1) for text in ("a", "bad", "b"))
    first, bad, last = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, last) == ("A", "B") and isinstance(bad, ValueError)

    async def short(payloads: Sequence[str]) -> list[object]:
        return []

    with pytest.raises(Exception, match=r"0 results .*1"):
        await TokenBatcher(short, limits()).submit("a", 1)


async def test_batcher_caller_that_leaves_gives_its_room_back() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    batcher = TokenBatcher(recorder.run, limits(max_queued_batches=1))
    first = asyncio.create_task(batcher.submit("a", 1))
    await asyncio.sleep(0.01)
    leaving = [asyncio.create_task(batcher.submit("left", 50)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(ServiceOverloaded, match=r"1 full batches .* 1"):
        batcher.check_room()
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    staying = asyncio.create_task(batcher.submit("b", 1))
    recorder.gate.set()
    assert await asyncio.gather(first, staying) == ["A", "B"]
    assert recorder.batches == [["a"], ["b"]]
    batcher.check_room()


@settings(max_examples=60, deadline=None)
@given(
    payloads=st.lists(st.tuples(st.text(max_size=8), st.integers(1, 8), st.integers(0, 3)), max_size=40),
    max_payloads=st.integers(1, 7),
    max_tokens=st.integers(1, 12),
)
def test_batcher_answers_every_caller_within_greedy_batches(
    payloads: list[tuple[str, int, int]], max_payloads: int, max_tokens: int
) -> None:
    batches: list[list[int]] = []
    cost_of = {f"{at}:{text}": cost for at, (text, cost, _) in enumerate(payloads)}

    async def digest(batch: Sequence[str]) -> list[str]:
        batches.append([cost_of[payload] for payload in batch])
        await asyncio.sleep(0)
        return [hashlib.sha256(payload.encode()).hexdigest() for payload in batch]

    async def ask() -> list[str]:
        batcher = TokenBatcher(digest, limits(max_payloads=max_payloads, max_tokens=max_tokens))

        async def one(payload: str, cost: int, turns: int) -> str:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await batcher.submit(payload, cost)

        turns = [turns for _, _, turns in payloads]
        return await asyncio.gather(
            *(one(payload, cost, wait) for (payload, cost), wait in zip(cost_of.items(), turns, strict=True))
        )

    assert asyncio.run(ask()) == [hashlib.sha256(payload.encode()).hexdigest() for payload in cost_of]
    assert sum(len(batch) for batch in batches) == len(payloads)
    assert all(len(batch) <= max_payloads for batch in batches)
    assert all(sum(batch) <= max_tokens or len(batch) == 1 for batch in batches)


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [((), 1), (("",), 1), (("four",), 2), (("a" * 400,), 101), (("é" * 4, "x" * 4), 4), (("\ud800",), 1)],
)
def test_tokens_are_estimated_from_bytes(texts: tuple[str, ...], tokens: int) -> None:
    assert estimated_tokens(*texts) == tokens
