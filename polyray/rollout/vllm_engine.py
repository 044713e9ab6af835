"""vLLM in this process, stepped by hand: the only file that imports vllm, and only when an engine is built.

In-process (no EngineCore process) it starts in seconds, dies with its actor and leaves no orphans.
`add_request` and `step` instead of the blocking `generate`, so groups join and leave a running batch.
Detokenisation is ours: once, on finished sequences, a group at a time.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.data.chat import encode_prompt
from polyray.delivery.adapter import AdapterPayload
from polyray.delivery.merge import MergedWeights
from polyray.errors import DataError, DeliveryError, RolloutError
from polyray.types import Completion, FinishReason, Group, GroupRequest, PolicyVersion

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_COMPILE_DISABLE": "1",
}
"""Set before vllm is imported; a variable that is set already keeps its value. Compiling vLLM's sampler at
every cold start costs seconds and a C++ compiler, and gives the same tokens and log-probs bit for bit."""


class _Running:
    """A group on its way: which of its completions are done."""

    __slots__ = ("completions", "missing", "prompt_token_ids", "request")

    def __init__(self, request: GroupRequest, prompt_token_ids: list[int]) -> None:
        self.request = request
        self.prompt_token_ids = prompt_token_ids
        self.completions: list[Any] = [None] * len(request.seeds)
        self.missing = len(request.seeds)


class VllmEngine:
    """An `Engine` on vLLM with merged delivery."""

    def __init__(self, model_dir: Path, spec: RolloutSpec, dtype: str) -> None:
        self._llm = build_llm(model_dir, spec, dtype)
        self._engine: Any = self._llm.llm_engine
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._weights = MergedWeights(model_dir)
        self._max_model_len = spec.max_model_len
        self._running: dict[int, _Running] = {}
        self._policy: PolicyVersion | None = None

    @property
    def idle(self) -> bool:
        """True where no group is queued or running."""
        return not self._running and not self._engine.has_unfinished_requests()

    def submit(self, request: GroupRequest) -> None:
        """See `Engine.submit`."""
        if self._policy is None:
            raise RolloutError(
                "no policy version was delivered to this engine yet; deliver one before sampling"
            )
        prompt_token_ids = encode_prompt(self._tokenizer, request.prompt)
        room = self._max_model_len - request.max_completion_tokens
        if len(prompt_token_ids) > room:
            raise DataError(
                f"prompt {request.prompt.prompt_id!r} has {len(prompt_token_ids)} tokens, the limit "
                f"is {room}; "
                "raise rollout.max_prompt_tokens"
            )
        self._running[request.group_id] = _Running(request, prompt_token_ids)
        prompt = engine_input(prompt_token_ids)
        for index, params in enumerate(sampling_params(request)):
            self._engine.add_request(f"{request.group_id}/{index}", prompt, params)

    def poll(self) -> list[Group]:
        """See `Engine.poll`."""
        finished: list[Group] = []
        for output in self._engine.step():
            if not output.finished:
                continue
            group_id, _, index = output.request_id.partition("/")
            running = self._running.get(int(group_id))
            if running is None:
                continue
            running.completions[int(index)] = output.outputs[0]
            running.missing -= 1
            if running.missing == 0:
                del self._running[int(group_id)]
                finished.append(self._as_group(running))
        return finished

    def abort(self, group_id: int) -> None:
        """See `Engine.abort`."""
        running = self._running.pop(group_id, None)
        if running is not None:
            ids = [f"{group_id}/{index}" for index in range(len(running.request.seeds))]
            self._engine.abort_request(ids)

    def drain(self) -> list[Group]:
        """See `Engine.drain`."""
        finished: list[Group] = []
        while not self.idle:
            finished.extend(self.poll())
        return finished

    def load(self, payload: AdapterPayload) -> None:
        """See `Engine.load`: merges into the pristine base and reloads in place."""
        if not self.idle:
            raise DeliveryError(
                f"{payload.policy.name} cannot be loaded while groups run: a group is one version"
            )
        merged = self._weights.merge(payload)
        if merged:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(merged)})
        if not self._llm.reset_prefix_cache():
            raise DeliveryError(
                "vLLM refused to reset its prefix cache: keys and values of the old version may remain"
            )
        self._policy = payload.policy

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """See `Engine.probe`."""
        from vllm import SamplingParams

        # prompt_logprobs ignores the temperature, also with processed log-probs: it is always temperature 1.
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, skip_clone=True
        )
        for index, sequence in enumerate(sequences):
            self._engine.add_request(f"probe/{index}", engine_input(list(sequence)), copy.copy(params))
        rows: dict[int, np.ndarray] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    rows[int(output.request_id.partition("/")[2])] = _prompt_logprobs(output)
        return np.concatenate([rows[index] for index in range(len(sequences))])

    def _as_group(self, running: _Running) -> Group:
        assert self._policy is not None
        request = running.request
        token_ids = [np.asarray(output.token_ids, np.int32) for output in running.completions]
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        completions = tuple(
            Completion(tokens, _sampled_logprobs(output), text, _finish_reason(output.finish_reason), seed)
            for tokens, output, text, seed in zip(
                token_ids, running.completions, texts, request.seeds, strict=True
            )
        )
        prompt = np.asarray(running.prompt_token_ids, np.int32)
        return Group(request.group_id, request.prompt, prompt, completions, self._policy)


def build_llm(model_dir: Path, spec: RolloutSpec, dtype: str) -> Any:
    """The `vllm.LLM` of a rollout engine; the benchmark measures a bare one from the same arguments."""
    return import_vllm()(**engine_arguments(model_dir, spec, dtype))


def import_vllm() -> type[Any]:
    """`vllm.LLM`, in the environment it needs. The import takes longer than building a small engine."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from vllm import LLM

    return LLM


def engine_arguments(model_dir: Path, spec: RolloutSpec, dtype: str) -> dict[str, Any]:
    """The `LLM(...)` arguments of a rollout engine."""
    import torch

    arguments: dict[str, Any] = {
        "model": str(model_dir),
        "dtype": dtype,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_sequences,
        "max_num_batched_tokens": max(spec.max_batched_tokens, spec.max_model_len),
        "block_size": spec.block_size,
        "enforce_eager": not torch.cuda.is_available(),
        # Only full blocks are ever found again; looking for them costs time for every request and token.
        "enable_prefix_caching": spec.max_prompt_tokens > spec.block_size,
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "seed": 0,
        "generation_config": "vllm",
    }
    if torch.cuda.is_available():
        arguments |= {"gpu_memory_utilization": spec.gpu_memory_utilization}
    else:
        arguments |= {"kv_cache_memory_bytes": spec.kv_cache_mib * 2**20}
    return arguments


def engine_input(prompt_token_ids: list[int]) -> Any:
    """A prompt in the form vLLM takes without rendering it again for every sample of its group."""
    from vllm.inputs import tokens_input

    return tokens_input(prompt_token_ids)


def sampling_params(request: GroupRequest) -> list[Any]:
    """One `vllm.SamplingParams` per sample, equal but for the seed."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # Built and checked once a group; each copy serves one request, so vLLM need not clone it deeply again.
    params = SamplingParams(
        temperature=request.temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=request.max_completion_tokens,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
    return [_with_seed(params, seed) for seed in request.seeds]


def _with_seed(params: Any, seed: int) -> Any:
    copied = copy.copy(params)
    copied.seed = seed
    return copied


def _sampled_logprobs(output: Any) -> np.ndarray:
    """[T] float32: with logprobs=0 the flat list holds exactly the sampled token of each position."""
    values = np.asarray(output.logprobs.logprobs, np.float32)
    if values.shape != (len(output.token_ids),):
        raise RolloutError(
            f"vLLM returned {values.size} log-probs for {len(output.token_ids)} sampled tokens"
        )
    return values


def _prompt_logprobs(output: Any) -> np.ndarray:
    tokens = output.prompt_token_ids
    return np.array(
        [row[token].logprob for token, row in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)],
        np.float32,
    )


def _finish_reason(reason: str | None) -> FinishReason:
    return "stop" if reason == "stop" else "length" if reason == "length" else "error"
