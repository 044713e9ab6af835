"""Completions of one request: together, given up together, refused where too many wait."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate, Probe
from polyray.serving.generation.errors import DeadlineExceeded, EngineBusy
from polyray.serving.generation.metrics import GenerationMetrics, ModelCounts
from polyray.serving.generation.sampling import Sampler
from polyray.types import PolicyVersion, Sampling, TextRequest
from tests.unit.serving.generation.scripted_text_engine import ScriptedTextEngine


def engine_of(run: str = "base", tokens: int = 3) -> ScriptedTextEngine:
    engine = ScriptedTextEngine(tokens)
    probe = Probe((), np.zeros(0, np.float32), None)
    engine.served[run] = PolicyUpdate(PolicyVersion(1, 0, "0" * 64, run=run), b"", None, probe)
    return engine


def sampler_of(engine: Any, timeout_s: float = 5.0, queued: int = 2) -> Sampler:
    return Sampler(engine, 4, queued, timeout_s, GenerationMetrics())


def requests(count: int, run: str = "base") -> list[TextRequest]:
    return [TextRequest((1,), Sampling(max_tokens=8), seed, run) for seed in range(count)]


async def test_completions_come_whole_and_in_order() -> None:
    sampler = sampler_of(engine_of())
    answers = await sampler.complete(requests(5))
    assert [answer.text for answer in answers] == ["xxx"] * 5
    assert answers[0].logprobs == [-0.5] * 3 and answers[0].finish_reason == "length"
    assert sampler._metrics.counts_by_model() == {"base": ModelCounts(completions=5, tokens=15)}


async def test_stream_deltas_carry_the_index_of_their_completion() -> None:
    seen: dict[int, str] = {}
    async with aclosing(sampler_of(engine_of()).stream(requests(3))) as stream:
        async for at, delta in stream:
            seen[at] = seen.get(at, "") + delta.text
    assert seen == {0: "xxx", 1: "xxx", 2: "xxx"}


async def test_failed_completion_takes_the_others_off_the_engine() -> None:
    engine = engine_of()
    engine.error = RolloutError("the engine is gone")
    with pytest.raises(RolloutError, match="the engine is gone"):
        await sampler_of(engine).complete(requests(3))
    assert engine.in_flight == 0
    with pytest.raises(RolloutError, match="the engine is gone"):
        async with aclosing(sampler_of(engine).stream(requests(3))) as stream:
            async for _ in stream:
                pass
    assert engine.in_flight == 0


async def test_a_caller_that_is_cancelled_frees_the_engine() -> None:
    engine = engine_of()
    engine.hold = asyncio.Event()
    sampler = sampler_of(engine)
    task = asyncio.create_task(sampler.complete(requests(4)))
    while engine.in_flight < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.in_flight, len(engine.closed)) == (0, 4)
    assert sampler._metrics.counts_by_model() == {"base": ModelCounts()}


async def test_a_stream_that_is_closed_frees_the_engine() -> None:
    engine = engine_of(tokens=8)
    async with aclosing(sampler_of(engine).stream(requests(2))) as stream:
        await anext(stream)
        assert engine.in_flight == 2
    assert (engine.in_flight, len(engine.closed)) == (0, 2)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_deadline_frees_the_engine(streamed: bool) -> None:
    engine = engine_of()
    engine.hold = asyncio.Event()
    sampler = sampler_of(engine, timeout_s=0.05)
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        if streamed:
            await anext(sampler.stream(requests(2)))
        else:
            await sampler.complete(requests(2))
    assert (engine.in_flight, len(engine.closed)) == (0, 2)


async def test_full_queue_refuses_requests_until_it_has_room() -> None:
    sampler = sampler_of(engine_of(), queued=2)
    with sampler.reserved(4):
        assert (sampler.running, sampler.queued) == (4, 0)
        with sampler.reserved(9):  # room for one is room for a request, however large
            assert (sampler.running, sampler.queued) == (4, 9)
            with (
                pytest.raises(EngineBusy, match=r"9 completions .* 2"),
                sampler.reserved(1),
            ):
                pass
        with sampler.reserved(1):
            assert sampler.queued == 1
    assert (sampler.running, sampler.queued) == (0, 0)
