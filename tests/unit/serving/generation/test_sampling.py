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


def sampler_of(engine: Any, timeout_s: float = 5.0) -> Sampler:
    return Sampler(engine, 4, 2, timeout_s, GenerationMetrics())


def requests(count: int) -> list[TextRequest]:
    return [TextRequest((1,), Sampling(max_tokens=8), seed, "base") for seed in range(count)]


async def texts(sampler: Sampler, streamed: bool, count: int = 3) -> list[str]:
    if not streamed:
        return [answer.text for answer in await sampler.complete(requests(count))]
    seen = [""] * count
    async with aclosing(sampler.stream(requests(count))) as stream:
        async for at, delta in stream:
            seen[at] += delta.text
    return seen


@pytest.mark.parametrize("streamed", [False, True])
async def test_sampler_completes_all_requests_or_frees_the_engine(streamed: bool) -> None:
    engine = engine_of()
    sampler = sampler_of(engine)
    assert await texts(sampler, streamed) == ["xxx"] * 3
    assert sampler._metrics.counts_by_model() == {"base": ModelCounts(completions=3, tokens=9)}
    engine.error = RolloutError("the engine is gone")
    with pytest.raises(RolloutError, match="the engine is gone"):  # each request is a task, as in the service
        await asyncio.create_task(texts(sampler, streamed))
    assert engine.in_flight == 0
    engine.error, engine.hold = None, asyncio.Event()
    engine.closed.clear()
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        await texts(sampler_of(engine, timeout_s=0.05), streamed)
    assert (engine.in_flight, len(engine.closed)) == (0, 3)


async def test_sampler_whole_answers_have_log_probs_and_finish_reason() -> None:
    first, _ = await sampler_of(engine_of()).complete(requests(2))
    assert first.logprobs == [-0.5] * 3 and first.finish_reason == "length"


async def test_sampler_cancelled_caller_frees_the_engine() -> None:
    engine = engine_of(tokens=8)
    async with aclosing(sampler_of(engine).stream(requests(2))) as stream:
        await anext(stream)
        assert engine.in_flight == 2
    assert (engine.in_flight, len(engine.closed)) == (0, 2)
    engine.hold = asyncio.Event()
    sampler = sampler_of(engine)
    task = asyncio.create_task(sampler.complete(requests(4)))
    while engine.in_flight < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.in_flight, len(engine.closed)) == (0, 6)
    assert sampler._metrics.counts_by_model() == {"base": ModelCounts()}


async def test_sampler_full_queue_refuses_requests_until_it_has_room() -> None:
    sampler = sampler_of(engine_of())
    with sampler.reserved(4):
        assert (sampler.running, sampler.queued) == (4, 0)
        with sampler.reserved(9):  # room for one is room for a request, however large
            assert (sampler.running, sampler.queued) == (4, 9)
            with pytest.raises(EngineBusy, match=r"9 completions .* 2"), sampler.reserved(1):
                pass
        with sampler.reserved(1):
            assert sampler.queued == 1
    assert (sampler.running, sampler.queued) == (0, 0)
