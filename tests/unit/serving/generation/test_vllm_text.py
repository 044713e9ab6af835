"""Text engine on real vLLM: log-probs equal Hugging Face, and an absent client frees its request.

Texts of any engine are tested in engine_contract.py; this is the service's log-probs and its event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.rollout.engine import EngineSettings
from polyray.rollout.vllm_engine import VllmEngine
from polyray.serving.generation.text_engine import TextEngine
from polyray.types import PolicyVersion, Sampling, TextDelta, TextRequest
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.tiny_policy import build_base, move, save_base

SHAPE = {"head_dim": 32, "num_hidden_layers": 2}
RANK = 3
PROBE = ((1, 8, 9, 4, 20), (1, 7, 3))
PROMPT = (1, 8, 9, 4)
TOLERANCE = 1e-4


def policy(run: str, seed: int | None) -> tuple[Any, PolicyUpdate]:
    """A Hugging Face model and what delivers it: the base for None, else a random adapter."""
    model: Any = build_base(**SHAPE)
    content, shape = b"", None
    if seed is not None:
        model = attach_adapter(model, LoraSpec(rank=RANK, alpha=8), None, base_sha256="b" * 64, seed=seed)
        move(model, 0.3, seed)
        model.eval()
        content, shape = adapter_bytes(model), AdapterShape.from_peft(adapter_config(model))
    version = PolicyVersion(1, 0, sha256_of(content), run=run)
    return model, PolicyUpdate(version, content, shape, Probe(PROBE, probe_logprobs(model, PROBE), None))


BASE, FIRST, SECOND = policy("base", None), policy("first", 1), policy("second", 2)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["vllm", pytest.param("vllm_async", marks=pytest.mark.slow)],
)
async def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TextEngine]:
    model_dir = save_base(tmp_path_factory.mktemp("base"), **SHAPE)
    spec = RolloutSpec(
        engine=request.param,
        max_prompt_tokens=16,
        max_completion_tokens=240,
        max_sequences=32,
        kv_cache_mib=16,
    )
    settings = EngineSettings(str(model_dir), "float32", spec, RANK, 3)
    built = TextEngine("texts", lambda: VllmEngine(settings, texts=True))
    await built.start()
    for _, payload in (BASE, FIRST, SECOND):
        served = await built.load(payload)
        assert np.abs(served.logprobs - payload.probe.logprobs).max() < TOLERANCE
    files: Path = built._engine._watchdog.directory  # type: ignore[attr-defined]
    yield built
    await built.close()
    assert not files.exists(), "the files of an engine end with it"
    with pytest.raises(RolloutError, match="gone"):
        await whole(built, asked("base"))


pytestmark = pytest.mark.asyncio(loop_scope="module")


def asked(
    run: str, max_tokens: int = 12, seed: int = 5, stream: bool = False, **sampling: Any
) -> TextRequest:
    return TextRequest(PROMPT, Sampling(max_tokens=max_tokens, **sampling), seed, run, stream)


async def deltas(engine: TextEngine, wanted: TextRequest) -> list[TextDelta]:
    async with aclosing(engine.generate(wanted)) as stream:
        return [delta async for delta in stream]


async def whole(engine: TextEngine, wanted: TextRequest) -> TextDelta:
    (only,) = await deltas(engine, wanted)
    return only


@pytest.mark.parametrize(("model", "payload"), [BASE, FIRST, SECOND], ids=["base", "first", "second"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
async def test_text_log_probs_are_the_models_at_temperature_one(
    engine: TextEngine, model: Any, payload: PolicyUpdate, temperature: float, top_p: float
) -> None:
    wanted = asked(payload.policy.run, temperature=temperature, top_p=top_p, logprobs=3)
    answer = await whole(engine, wanted)
    tokens = torch.tensor([[*PROMPT, *answer.token_ids]])
    with torch.no_grad():
        rows = model(input_ids=tokens).logits[0, len(PROMPT) - 1 : -1].float().log_softmax(-1)
    expected = rows.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0].numpy()
    assert np.abs(expected - np.array(answer.logprobs)).max() < TOLERANCE
    for row, alternatives in zip(rows, answer.alternatives, strict=True):
        values, _ = row.topk(3)
        assert np.abs(values.numpy() - np.array([value for _, value in alternatives])).max() < TOLERANCE
        assert all(abs(float(row[token]) - value) < TOLERANCE for token, value in alternatives)


async def test_text_of_batched_adapters_is_that_of_each_alone(engine: TextEngine) -> None:
    wanted = [asked(run, seed=seed, logprobs=0) for seed in range(4) for run in ("base", "first", "second")]
    alone = [await whole(engine, each) for each in wanted]
    together = await asyncio.gather(*(whole(engine, each) for each in wanted))
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]
    worst = max(
        float(np.abs(np.array(a.logprobs) - np.array(b.logprobs)).max())
        for a, b in zip(together, alone, strict=True)
    )
    assert worst < TOLERANCE
    assert len({each.token_ids for each in alone}) > 6


async def test_text_without_a_caller_frees_the_engine(engine: TextEngine) -> None:
    async with aclosing(engine.generate(asked("first", max_tokens=200, stream=True, seed=3))) as stream:
        await anext(stream)
        assert engine.in_flight == 1
    assert engine.in_flight == 0
    name = FIRST[1].policy.name
    async with asyncio.timeout(5):
        while engine.held()[name]:
            await asyncio.sleep(0.01)
    before = engine.progress
    await asyncio.sleep(0.2)
    assert engine.progress == before, "it decodes without a caller"


async def test_text_in_progress_keeps_its_first_version(engine: TextEngine) -> None:
    """`first` gets other weights while a completion of it runs, and goes while another one runs."""
    wanted = asked("first", max_tokens=60, seed=9, logprobs=0, stream=True)
    expected = await deltas(engine, wanted)
    _, newer = policy("first", 4)
    async with aclosing(engine.generate(wanted)) as stream:
        seen = [await anext(stream)]
        assert np.abs((await engine.load(newer)).logprobs - newer.probe.logprobs).max() < TOLERANCE
        seen += [delta async for delta in stream]
    assert [part.token_ids for part in seen] == [part.token_ids for part in expected]
    assert FIRST[1].policy.name not in engine.held()
    async with aclosing(engine.generate(wanted)) as stream:
        seen = [await anext(stream)]
        engine.forget("first")
        with pytest.raises(RolloutError, match="policy version"):
            await whole(engine, wanted)
        seen += [delta async for delta in stream]
    assert [part.token_ids for part in seen] != [part.token_ids for part in expected]
    assert newer.policy.name not in engine.held()
    await engine.load(FIRST[1])


async def test_text_engine_refused_adapter_changes_nothing(engine: TextEngine) -> None:
    before = engine.held()
    broken = PolicyUpdate(
        PolicyVersion(1, 1, "0" * 64, run="third"), b"no safetensors", FIRST[1].shape, FIRST[1].probe
    )
    with pytest.raises(WeightSyncError):
        await engine.load(broken)
    assert engine.held() == before
    assert engine.failure is None
