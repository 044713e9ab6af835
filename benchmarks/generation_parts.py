"""The generation service beside a bare engine, both with the same random model and the same adapter."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from benchmarks.generation_load import NUMBER_DIGITS, GenerationCaller, PlainConnection, Prompts
from benchmarks.measure import Measure
from benchmarks.models import model_directory
from polyray.config.generation import AdapterSpec, GenerationEngineSpec, GenerationServeConfig
from polyray.config.loader import build_config
from polyray.config.model import LoraSpec, ModelSpec
from polyray.models.adapter import AdapterShape
from polyray.weight_sync.merge import PEFT_PREFIX, base_weight_files

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

THROUGHPUT_LIMIT = 0.85
LATENCY_LIMIT_MS = 15.0
CANDIDATES_LIMIT = 1.3
CALLERS = 16
REQUESTS = 48
MAX_TOKENS = 48
K = 8
CANDIDATE_PAIRS = 7
SINGLE_TOKENS = 150
WARM_UPS = 10
SOAK_CLIENTS = 100
SOAK_TOKENS = 12
RANK = 16
ADAPTER = "adapter"


class BareEngine:
    """vLLM with the service's own engine arguments and its adapter; a Ray actor of its own process."""

    def __init__(self, model_dir: str, config: GenerationServeConfig, adapter_dir: str) -> None:
        from polyray.rollout.vllm_delivery import AdapterDelivery
        from polyray.rollout.vllm_engine import import_vllm
        from polyray.rollout.vllm_texts import text_engine_arguments
        from polyray.weight_sync.probe import adapter_on_disk

        directory = Path(model_dir)
        arguments = text_engine_arguments(
            directory, config.rollout(), "float32", RANK, config.max_adapters + 1
        )
        self._llm = import_vllm(on_gpu=False)(**arguments)
        delivery = AdapterDelivery(directory, self._llm.llm_engine, RANK)
        delivery.load(adapter_on_disk(Path(adapter_dir), directory, "float32", ((1, 8, 9),), 0))
        self._adapter = delivery.probed().lora_request

    def generate(self, prompts: list[list[int]], max_tokens: int) -> tuple[float, int]:
        """(seconds, tokens) of all of them at once, decoded."""
        from polyray.rollout.text_engine import TextRequest, TextSampling
        from polyray.rollout.vllm_texts import text_params

        started = time.perf_counter()
        sampling = TextSampling(max_tokens=max_tokens)
        params = [text_params(TextRequest((), sampling, seed, ADAPTER)) for seed in range(len(prompts))]
        inputs: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(inputs, params, lora_request=self._adapter, use_tqdm=False)
        tokens = [output.outputs[0].token_ids for output in outputs]
        self._llm.get_tokenizer().batch_decode(tokens, skip_special_tokens=True)
        return time.perf_counter() - started, sum(len(row) for row in tokens)


def prepare(scratch: Path) -> tuple[GenerationServeConfig, Path, Path]:
    """(configuration, model, adapter): a random model of about 90 M parameters and a random adapter on it."""
    from polyray.models.adapter_files import write_adapter
    from polyray.models.base_files import base_fingerprint
    from polyray.rollout.adapter_files import peft_config

    model_dir = model_directory("random", scratch / "model")
    lora = LoraSpec(rank=RANK)
    shape = AdapterShape(lora.rank, lora.alpha, tuple(sorted(lora.target_modules)))
    adapter_dir = scratch / ADAPTER
    manifest = {"base_sha256": base_fingerprint(model_dir)}
    write_adapter(random_factors(model_dir, lora), peft_config(shape), adapter_dir, manifest)
    values = {
        "name": "generation-benchmark",
        "model": ModelSpec(path=str(model_dir), dtype="float32"),
        "engine": GenerationEngineSpec(
            max_prompt_tokens=32, max_completion_tokens=64, max_sequences=CALLERS, max_queued_sequences=64
        ),
        "adapters": (AdapterSpec(path=str(adapter_dir), name=ADAPTER),),
        "adapter_roots": (str(scratch),),
        "max_lora_rank": RANK,
        "max_adapters": 2,
        "database": f"sqlite:///{scratch}/selections.db",
        "limits": {"request_timeout_s": 300.0},
        "port": 0,
        "ray": {"num_cpus": 6, "dashboard": False},
    }
    return build_config(GenerationServeConfig, values), model_dir, adapter_dir


def random_factors(model_dir: Path, lora: LoraSpec) -> bytes:
    """Safetensors of small random LoRA factors for every target module of a base."""
    draw = torch.Generator().manual_seed(0)
    factors: dict[str, torch.Tensor] = {}
    for name, file in sorted(base_weight_files(model_dir).items()):
        stem = name.removesuffix(".weight")
        if stem != name and stem.rpartition(".")[2] in lora.target_modules:
            with safe_open(str(file), framework="pt") as tensors:
                rows, columns = tensors.get_slice(name).get_shape()
            for factor, size in (("A", (lora.rank, columns)), ("B", (rows, lora.rank))):
                values = torch.randn(*size, generator=draw) / size[1 if factor == "A" else 0]
                factors[f"{PEFT_PREFIX}{stem}.lora_{factor}.weight"] = values
    return save(factors)


async def throughput(url: str, bare: Any, rounds: int, display: ProgressDisplay) -> list[Measure]:
    """Tokens per second of the service and of the bare engine, in turns."""
    ratios, served, alone = [], [], []
    async with GenerationCaller(url, ADAPTER, CALLERS) as caller:
        await caller.tokens_per_second(Prompts(99), CALLERS, CALLERS, 8)
        await _bare(bare, Prompts(98), CALLERS, 8)
        for turn in range(rounds):
            display.update(phase="throughput", step=turn, total=rounds)
            if turn % 2:
                alone.append(await _bare(bare, Prompts(turn), REQUESTS, MAX_TOKENS))
            served.append(await caller.tokens_per_second(Prompts(turn), CALLERS, REQUESTS, MAX_TOKENS))
            if not turn % 2:
                alone.append(await _bare(bare, Prompts(turn), REQUESTS, MAX_TOKENS))
            ratios.append(served[-1] / alone[-1])
    return [
        Measure(
            f"tokens/s of {CALLERS} callers / bare engine", tuple(ratios), "", THROUGHPUT_LIMIT, "at least"
        ),
        Measure("  service", tuple(served), "tokens/s"),
        Measure("  bare engine", tuple(alone), "tokens/s"),
    ]


async def latency(url: str, bare: Any, display: ProgressDisplay) -> list[Measure]:
    """One token over HTTP and one token of the engine, in turns; the median of the difference.

    The shortest prompts that differ: the engine's time is on both sides, and its noise in the difference.
    """
    prompts = Prompts(7, NUMBER_DIGITS)
    over_http, engine = [], []
    with PlainConnection(url, ADAPTER) as caller:
        for turn in range(WARM_UPS + SINGLE_TOKENS):
            display.update(phase="latency", step=turn, total=WARM_UPS + SINGLE_TOKENS)
            over_http.append(caller.completion_seconds(prompts.tokens(), 1))
            engine.append(await _seconds(bare, prompts, 1))
    del over_http[:WARM_UPS], engine[:WARM_UPS]
    added = tuple((http - alone) * 1e3 for http, alone in zip(over_http, engine, strict=True))
    return [
        Measure("time that the gateway adds to one token, p50", added, "ms", LATENCY_LIMIT_MS),
        Measure("  over HTTP", (statistics.median(over_http) * 1e3,), "ms"),
        Measure("  engine", (statistics.median(engine) * 1e3,), "ms"),
    ]


async def candidates(url: str, display: ProgressDisplay) -> list[Measure]:
    """k candidates, without their scoring, against one completion with n = k, in turns."""
    ratios, scoring = [], []
    async with GenerationCaller(url, ADAPTER, 1) as caller:
        for turn in range(CANDIDATE_PAIRS):
            display.update(phase="candidates", step=turn, total=CANDIDATE_PAIRS)
            started = time.perf_counter()
            answer = await caller.candidates("37|b1>e4=", MAX_TOKENS, K, seed=turn)
            middle = time.perf_counter()
            await caller.completion(Prompts(turn).tokens(), MAX_TOKENS, K, seed=turn)
            done = time.perf_counter()
            score_s = answer["timings"]["score_s"]
            ratios.append((middle - started - score_s) / (done - middle))
            scoring.append(score_s)
    return [
        Measure(f"k = {K} candidates without scoring / n = {K}", tuple(ratios), "", CANDIDATES_LIMIT),
        Measure("  scoring", tuple(scoring), "s"),
    ]


async def soak(url: str, seconds: float, display: ProgressDisplay) -> list[Measure]:
    """Many clients at once: everything is answered, or refused with 429."""
    display.update(phase=f"{SOAK_CLIENTS} clients")
    async with GenerationCaller(url, ADAPTER, SOAK_CLIENTS) as caller:
        result = await caller.soak(SOAK_CLIENTS, seconds, SOAK_TOKENS)
    for failure in result.failures:
        display.note(failure)
    return [
        Measure(f"{SOAK_CLIENTS} clients: neither answered nor 429", (float(result.bad),), "", 0.0),
        Measure("  answered", (float(result.statuses[200]),)),
        Measure("  refused with 429", (float(result.statuses[429]),)),
        Measure("  longest request", (result.worst_s,), "s"),
    ]


async def _bare(bare: Any, prompts: Prompts, requests: int, max_tokens: int) -> float:
    seconds, tokens = await bare.generate.remote([prompts.tokens() for _ in range(requests)], max_tokens)
    return tokens / seconds


async def _seconds(bare: Any, prompts: Prompts, max_tokens: int) -> float:
    return (await bare.generate.remote([prompts.tokens()], max_tokens))[0]


def run_parts(
    url: str, bare: Any, parts: list[str], rounds: int, soak_s: float, display: ProgressDisplay
) -> list[Measure]:
    """The measures of `parts`."""

    async def measured() -> list[Measure]:
        found: list[Measure] = []
        if "throughput" in parts:
            found += await throughput(url, bare, rounds, display)
        if "latency" in parts:
            found += await latency(url, bare, display)
        if "candidates" in parts:
            found += await candidates(url, display)
        if "soak" in parts:
            found += await soak(url, soak_s, display)
        return found

    return asyncio.run(measured())
