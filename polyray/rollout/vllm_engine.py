"""vLLM's LLMEngine, stepped by hand; imported only when an engine is built.

In this process it starts in seconds, dies with its actor and leaves no orphans. With `engine=vllm_async`, as tensor
parallelism needs it, its EngineCore and workers are processes of their own: the same calls, and a watchdog that ends
those processes with this one. `add_request` and `step` instead of the blocking `generate`, so requests join and
leave a running batch.
"""

from __future__ import annotations

import copy
import fcntl
import importlib.util
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from polyray.config.model import LINEAR_MODULES, NF4
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError, DataError, RolloutError
from polyray.extensions import naming_the_extra
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.engine import Engine, EngineSettings, Running
from polyray.rollout.vllm_build import FIELD, MAX_LORAS, VLLM_RANKS, check_build
from polyray.rollout.watchdog import Watchdog
from polyray.types import FinishReason, Sampling, TextDelta, TextRequest
from polyray.weight_sync.vllm_delivery import AdapterDelivery, MergedDelivery

POLL_S = 0.02
"""The longest a step waits for output of another process."""
DEAD_CHECK_S = 0.5
BLOCK_SIZE = 32
"""Tokens of one KV cache block."""
IN_THIS_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Set before vllm is imported; a variable that is set already keeps its value."""
ON_CPU = {"TORCH_COMPILE_DISABLE": "1"}
"""Additional variables of an engine that uses no GPU.

Compiling vLLM's sampler at every cold start costs seconds and a C++ compiler, and gives the same tokens and
log-probs bit for bit. On a GPU it would take Inductor and the CUDA graphs of prefills away.
"""
IN_PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
"""Variables of an engine in processes of its own.

Forked processes would not carry the watchdog's mark, and would inherit the locks of this process' threads.
"""


class VllmEngine(Engine):
    """An `Engine` on vLLM, in this process or in processes of its own, as `engine_kind` of its rollout says."""

    def __init__(self, settings: EngineSettings, *, texts: bool = False) -> None:
        """`texts`: log-probs are at temperature 1 for any sampling, as a service needs them."""
        spec, model_dir = settings.rollout, Path(settings.model_dir)
        arguments, marking = engine_arguments(settings, texts=texts), nullcontext()
        self._in_processes = spec.engine_kind == "vllm_async"
        self._watchdog = None if settings.lora_rank is None else Watchdog()
        if self._watchdog and self._in_processes:
            os.environ["VLLM_RPC_BASE_PATH"] = str(self._watchdog.directory)
            marking = self._watchdog.marking()
        try:
            with marking:
                self._llm = build_llm(arguments, spec)
            engine = self._engine = self._llm.llm_engine
            self._delivery = (
                AdapterDelivery(model_dir, engine, settings.lora_rank, self._watchdog.directory)
                if self._watchdog and settings.lora_rank is not None
                else MergedDelivery(model_dir, engine)
            )
        except BaseException:
            if self._watchdog:
                self._watchdog.close()
            raise
        super().__init__(self._llm.get_tokenizer(), spec, keeps_versions=settings.lora_rank is not None)
        if self._in_processes:
            threading.Thread(target=_end_calls_of_a_dead_core, args=[engine.engine_core], daemon=True).start()

    def sleep(self) -> None:  # on a CPU vLLM only stops scheduling
        self._llm.sleep(level=1)  # moves weights to the host's memory; level 2 would drop them, and adapters

    def wake(self) -> None:
        self._llm.wake_up()

    def close(self) -> None:
        try:
            if self._in_processes:
                self._engine.engine_core.shutdown(timeout=0)
        finally:
            if self._watchdog:
                self._watchdog.close()

    def _add(self, running: Running) -> None:
        """Make the checks of `LLMEngine.add_request` once for all samples of a group.

        They differ in their seeds alone, and have their own ids already, to which vLLM would add random characters.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input

        engine, ids = self._engine, request_ids(running)
        of_text = isinstance(running.request, TextRequest)
        params = sampling_params(running.sampling, stream=running.stream, with_text=of_text)
        tasks, lora_request = engine.get_supported_tasks(), running.version.loaded
        try:
            checked = engine.input_processor.process_inputs(
                ids[0], tokens_input(running.prompt), params, supported_tasks=tasks, lora_request=lora_request
            )
        except (ValueError, VLLMClientError) as error:
            raise DataError(f"vLLM refuses the request: {error}") from error
        for request_id, seed in zip(ids, running.seeds, strict=True):
            request = copy.copy(checked)
            request.request_id = request.external_req_id = request_id
            request.sampling_params = copy.copy(checked.sampling_params)
            request.sampling_params.seed = seed
            engine.output_processor.add_request(request, None)
            engine.engine_core.add_request(request)

    def _advance(self) -> list[tuple[int, TextDelta]]:
        if self._in_processes and not output_waits(self._engine.engine_core):
            return []
        self.progress += 1
        outputs = [(int(output.request_id.rpartition("/")[2]), output) for output in self._engine.step()]
        return [
            (sample, text_delta(output, self._samples[sample].sampling))
            for sample, output in outputs
            if sample in self._samples
        ]

    def _load(self, payload: PolicyUpdate) -> Any:
        return self._delivery.load(payload)

    def _unload(self, loaded: Any) -> None:
        self._delivery.unload(loaded)

    def _cancel(self, running: Running) -> None:
        self._engine.abort_request(request_ids(running))


def request_ids(running: Running) -> list[str]:
    """vLLM's ids of its requests: by them the samples of a group find the prompt that they share."""
    return [f"{running.number}/{running.samples[0]}/{sample}" for sample in running.samples]


def output_waits(client: Any) -> bool:
    """Wait for output of an EngineCore in another process, for at most POLL_S. EngineDeadError if it has died.

    vLLM's own `step` would wait without an end where nothing runs, or the process was killed.
    """
    outputs = client.outputs_queue
    with outputs.not_empty:
        if outputs.not_empty.wait_for(lambda: outputs.queue, POLL_S):
            return True
    client.ensure_alive()
    return False


def _end_calls_of_a_dead_core(client: Any) -> None:
    """Fail calls that wait for an EngineCore which was killed; vLLM's client would let them wait."""
    from vllm.v1.engine.exceptions import EngineDeadError

    while not client.resources.engine_dead:
        time.sleep(DEAD_CHECK_S)
    for future in list(client.utility_results.values()):
        if not future.done():
            future.set_exception(EngineDeadError())


def sampling_params(sampling: Sampling, *, stream: bool = False, with_text: bool = False) -> Any:
    """`vllm.SamplingParams` without a seed: built and checked once, and copied for every sample.

    vLLM decodes token by token and reads on from the prompt: with many tokenizers a completion that is decoded by
    itself loses the space before its first word. That costs time, so groups are decoded as a whole.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        logprobs=sampling.logprobs,
        # Always at temperature 1, also with processed log-probs.
        prompt_logprobs=sampling.logprobs if sampling.prompt_logprobs else None,
        flat_logprobs=sampling.logprobs == 0,
        detokenize=with_text or bool(sampling.stop),
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # each copy serves one request
    )


def text_delta(output: Any, sampling: Sampling) -> TextDelta:
    """One of vLLM's answers to a request."""
    (completion,) = output.outputs
    tokens, count, rows = tuple(completion.token_ids), sampling.logprobs, completion.logprobs
    logprobs, alternatives = (), ()
    if count == 0:  # flat: exactly the sampled token of each position
        logprobs = tuple(rows.logprobs)
    elif count is not None:
        logprobs, alternatives = _read(zip(tokens, rows, strict=True), count)
    if len(logprobs) != len(tokens) and count is not None:
        raise RolloutError(f"vLLM returned {len(logprobs)} log-probs for {len(tokens)} sampled tokens")
    reason = completion.finish_reason
    known: FinishReason | None = "error" if reason not in (None, "stop", "length") else reason
    of_prompt = ((), ())
    if sampling.prompt_logprobs and output.prompt_logprobs:  # from the second token on
        rows = zip(output.prompt_token_ids[1:], list(output.prompt_logprobs)[1:], strict=True)
        of_prompt = _read(rows, count or 0)
    return TextDelta(completion.text, tokens, logprobs, alternatives, known, *of_prompt)


def _read(
    rows: Iterable[tuple[int, Any]], count: int
) -> tuple[tuple[float, ...], tuple[tuple[tuple[int, float], ...], ...]]:
    """Log-probs of tokens, and the `count` likeliest ones at their places; vLLM's rows have the token itself, too."""
    logprobs, alternatives = [], []
    for token, row in rows:
        logprobs.append(float(row[token].logprob))
        best = sorted(row.items(), key=lambda item: -item[1].logprob)[:count]
        alternatives.append(tuple((other, float(entry.logprob)) for other, entry in best))
    return tuple(logprobs), tuple(alternatives)


@contextmanager
def gpu_startup_lock(rollout: RolloutSpec) -> Iterator[None]:
    """Let the engines of one user with shares of one GPU start one after another.

    While it starts, vLLM measures how much of the GPU's memory is left, and counts other allocations as its own need.
    """
    if not rollout.shares_gpus:
        yield
        return
    gpu = re.sub(r"\W", "_", os.environ.get("CUDA_VISIBLE_DEVICES", ""))  # Ray names the GPU of a share in it
    path = Path(tempfile.gettempdir()) / f"polyray-gpu-{os.getuid()}-{gpu}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile would hold it as well
        os.close(file)


def build_llm(arguments: Mapping[str, Any], spec: RolloutSpec) -> Any:
    """The `vllm.LLM` of an engine from its `engine_arguments`; the benchmark measures a bare one."""
    llm = import_vllm(spec)
    with gpu_startup_lock(spec):
        return llm(**arguments)


def import_vllm(spec: RolloutSpec) -> type[Any]:
    """`vllm.LLM`, in the environment it needs. The import takes longer than building a small engine."""
    for key, value in (ENVIRONMENT if spec.gpus_per_worker else ENVIRONMENT | ON_CPU).items():
        os.environ.setdefault(key, value)
    os.environ |= IN_PROCESSES if spec.engine_kind == "vllm_async" else IN_THIS_PROCESS
    with naming_the_extra():
        from vllm import LLM, envs

    envs.disable_envs_cache()  # since its first engine vLLM keeps what it has read, also for engines of another kind
    return LLM


def engine_arguments(settings: EngineSettings, *, texts: bool = False) -> dict[str, Any]:
    """The `LLM(...)` arguments of an engine.

    Raises ConfigError where vLLM is not built for what the engine asks for, GPU or none, and where dtype is "nf4" and
    vLLM's plugin for it is not installed.
    """
    spec, lora_rank = settings.rollout, settings.lora_rank
    check_build(spec.gpus_per_worker, "num_gpus" if texts else FIELD)
    arguments: dict[str, Any] = {
        "model": settings.model_dir,
        "dtype": settings.dtype,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_sequences,
        "max_num_batched_tokens": max(spec.max_batched_tokens, spec.max_model_len),
        "block_size": BLOCK_SIZE,
        "enforce_eager": not spec.gpus_per_worker,
        # Only full blocks are ever found again; looking for them costs time for every request and token.
        "enable_prefix_caching": spec.max_prompt_tokens > BLOCK_SIZE,
        # People compare candidates by the model's own log-probs; a token that top_p cuts off has minus infinity
        # among processed ones, which JSON cannot carry.
        "logprobs_mode": "raw_logprobs" if texts else "processed_logprobs",
        "disable_log_stats": True,
        "seed": 0,
        "generation_config": "vllm",
    }
    if spec.gpus_per_worker:
        arguments["gpu_memory_utilization"] = spec.gpu_memory_utilization
        arguments["enable_sleep_mode"] = spec.sleep_between_steps
    else:
        arguments["kv_cache_memory_bytes"] = spec.kv_cache_mib * 2**20
        arguments["kv_transfer_config"] = {
            "kv_connector": "SharedPrompt",
            "kv_connector_module_path": "polyray.rollout.vllm_shared_prompt",
            "kv_role": "kv_both",
        }
    if settings.dtype == NF4:
        _check_adapters(lora_rank, "with a 4-bit base")
        if importlib.util.find_spec("vllm_bnb_plugin") is None:
            raise ConfigError(
                "model.quantization=nf4 needs vllm-bnb-plugin beside vLLM, which is not installed; pip install -r "
                "requirements/gpu.txt, or set model.quantization=none"
            )
        # The linear layers as they are read: NF4 with double quantisation in blocks of 64, as models/loading.py asks
        # for, too; the plugin offers nothing else.
        arguments |= {"dtype": "bfloat16", "quantization": "bitsandbytes"}
    if spec.engine_kind == "vllm_async":
        _check_adapters(lora_rank, "of several processes")
        arguments["tensor_parallel_size"] = spec.tensor_parallel_size
        arguments["distributed_executor_backend"] = "mp"
    if lora_rank is not None:
        versions = (spec.max_staleness + 2) * settings.runs
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": next(rank for rank in VLLM_RANKS if rank >= lora_rank),
            # Embedding and head stay bare: vLLM's CPU path fails on prompt_logprobs under a wrapped head.
            "lora_target_modules": list(LINEAR_MODULES),
            # In one batch: the versions that are still trained on, and the newest.
            "max_loras": min(versions, MAX_LORAS),
            # A completion may outlive that; one pushed out is read again from its files.
            "max_cpu_loras": 2 * versions,
        }
    return arguments


def _check_adapters(lora_rank: int | None, kind: str) -> None:
    if lora_rank is None:
        raise RolloutError(f"an engine {kind} takes adapters only; set delivery.mode=adapter")
