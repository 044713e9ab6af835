"""The batcher: budgets, order, isolation and cancellation of callers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.serving.reward.batching import BatchLimits, ServiceOverloaded, TokenBatcher, estimated_tokens


def limits(**changes) -> BatchLimits:
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


async def test_waiting_requests_form_the_next_batches_in_order():
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


async def test_idle_batcher_waits_unless_its_batch_is_full():
    recorder = Recorder()
    batcher = TokenBatcher(recorder.run, limits(wait_s=0.05, max_payloads=2))
    await asyncio.gather(batcher.submit("a", 1), batcher.submit("b", 1))
    slow = TokenBatcher(recorder.run, limits(wait_s=30.0, max_tokens=10))
    assert await asyncio.wait_for(slow.submit("c", 10), 1.0) == "C"
    assert recorder.batches == [["a", "b"], ["c"]]


async def test_tokens_cut_a_batch_and_a_payload_over_the_budget_goes_alone():
    recorder = Recorder()
    batcher = TokenBatcher(recorder.run, limits(max_payloads=100))
    costs = {"a": 60, "b": 30, "c": 20, "d": 500, "e": 1, "f": 99}
    await asyncio.gather(*(batcher.submit(text, cost) for text, cost in costs.items()))
    assert recorder.batches == [["a", "b"], ["c"], ["d"], ["e", "f"]]


async def test_an_error_reaches_its_own_caller_only():
    batcher = TokenBatcher(Recorder().run, limits())
    answers = await asyncio.gather(
        *(batcher.submit(text, 1) for text in ("a", "bad", "b")), return_exceptions=True
    )
    assert answers[0] == "A" and isinstance(answers[1], ValueError) and answers[2] == "B"

    async def short(payloads: Sequence[str]) -> list[object]:
        return []

    with pytest.raises(Exception, match=r"0 results .*1"):
        await TokenBatcher(short, limits()).submit("a", 1)


async def test_a_caller_that_leaves_is_not_scored_and_gives_its_room_back():
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


async def test_batcher_works_again_after_it_was_idle():
    recorder = Recorder()
    batcher = TokenBatcher(recorder.run, limits())
    for text in "ab":
        assert await batcher.submit(text, 1) == text.upper()
        await asyncio.sleep(0.01)


@settings(max_examples=60, deadline=None)
@given(
    payloads=st.lists(st.tuples(st.text(max_size=8), st.integers(1, 150), st.integers(0, 3)), max_size=40),
    max_payloads=st.integers(1, 7),
    max_tokens=st.integers(1, 200),
)
def test_every_caller_gets_the_answer_to_its_own_payload(payloads, max_payloads, max_tokens):
    sizes: list[tuple[int, int]] = []
    cost_of = {f"{at}:{text}": cost for at, (text, cost, _) in enumerate(payloads)}

    async def digest(batch: Sequence[str]) -> list[str]:
        sizes.append((len(batch), sum(cost_of[payload] for payload in batch)))
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

    answers = asyncio.run(ask())
    assert answers == [hashlib.sha256(payload.encode()).hexdigest() for payload in cost_of]
    assert sum(count for count, _ in sizes) == len(payloads)
    assert all(count <= max_payloads for count, _ in sizes)
    assert all(tokens <= max_tokens or count == 1 for count, tokens in sizes)


@pytest.mark.parametrize(
    ("texts", "tokens"), [((), 1), (("",), 1), (("four",), 2), (("a" * 400,), 101), (("é" * 4, "x" * 4), 4)]
)
def test_tokens_are_estimated_from_bytes(texts, tokens):
    assert estimated_tokens(*texts) == tokens
    assert estimated_tokens("\ud800") == 1
