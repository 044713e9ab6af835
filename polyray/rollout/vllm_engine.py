"""vLLM in this process, stepped by hand; imported only when an engine is built.

In-process (no EngineCore process) it starts in seconds, dies with its actor and leaves no orphans.
`add_request` and `step` instead of the blocking `generate`, so groups join and leave a running batch.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.model import LINEAR_MODULES, NF4
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError, RolloutError, WeightSyncError
from polyray.extensions import naming_the_extra
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.gpu_startup_lock import gpu_startup_lock
from polyray.rollout.vllm_build import MAX_LORAS, check_build
from polyray.rollout.vllm_delivery import AdapterDelivery, MergedDelivery, VersionDelivery, engine_rank
from polyray.rollout.vllm_groups import (
    RunningGroups,
    engine_input,
    probe_params,
    prompt_logprobs,
    with_seed,
)
from polyray.types import Group, GroupRequest

PROBE = "probe"
"""Request-id prefix of probe requests."""

SLEEP_LEVEL = 1
"""Weights move to the host's memory; at level 2 they would be gone, and adapters with them."""
BLOCK_SIZE = 32
"""Tokens of one KV cache block."""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
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


class VllmEngine:
    """An `Engine` on vLLM; `lora_rank` (of the adapters to come) asks for adapter delivery, None for merged; with
    it, the engine holds the versions of so many `runs`."""

    def __init__(
        self, model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int | None = None, runs: int = 1
    ) -> None:
        self.max_sequences = spec.max_sequences
        self._llm = build_llm(model_dir, spec, dtype, lora_rank, runs)
        self._engine: Any = self._llm.llm_engine
        self._groups = RunningGroups(self._llm.get_tokenizer(), spec.max_model_len)
        self._finished: list[Group] = []
        self._probed: dict[int, np.ndarray] = {}
        self._delivery: VersionDelivery = (
            MergedDelivery(model_dir, self._engine)
            if lora_rank is None
            else AdapterDelivery(model_dir, self._engine, lora_rank)
        )

    @property
    def keeps_versions(self) -> bool:
        """See `Engine.keeps_versions`."""
        return self._delivery.keeps_versions

    @property
    def idle(self) -> bool:
        """True where no group is queued, running or waiting for `poll`."""
        return not self._groups and not self._finished and not self._engine.has_unfinished_requests()

    def submit(self, request: GroupRequest) -> None:
        """See `Engine.submit`."""
        version = self._delivery.served(request.run)
        prompt = engine_input(self._groups.admit(request, version.policy))
        self._delivery.hold(version.policy)
        request_ids = self._groups.request_ids(request.group_id)
        params = self._groups.params(request)
        add_group(self._engine, request_ids, prompt, request, params, version.lora_request)

    def poll(self) -> list[Group]:
        """See `Engine.poll`."""
        self._step()
        finished, self._finished = self._finished, []
        return finished

    def abort(self, group_id: int) -> None:
        """See `Engine.abort`."""
        given_up = self._groups.forget(group_id)
        if given_up is not None:
            policy, request_ids = given_up
            self._engine.abort_request(request_ids)
            self._delivery.release(policy)

    def drain(self) -> list[Group]:
        """See `Engine.drain`."""
        finished: list[Group] = []
        while not self.idle:
            finished.extend(self.poll())
        return finished

    def load(self, payload: PolicyUpdate) -> None:
        """See `Engine.load`."""
        if not self.keeps_versions and not self.idle:
            raise WeightSyncError(
                f"{payload.policy.name} cannot be loaded while groups run: a group is one version"
            )
        self._delivery.load(payload)

    def forget(self, run: str) -> None:
        """See `Engine.forget`."""
        self._delivery.forget(run)

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """See `Engine.probe`."""
        lora_request = self._delivery.probed().lora_request
        self._probed = {}
        for index, sequence in enumerate(sequences):
            prompt = engine_input(list(sequence))
            self._engine.add_request(f"{PROBE}/{index}", prompt, probe_params(), lora_request=lora_request)
        while len(self._probed) < len(sequences):
            self._step()
        return np.concatenate([self._probed[index] for index in range(len(sequences))])

    def sleep(self) -> None:
        """See `Engine.sleep`; on a CPU vLLM only stops scheduling."""
        self._llm.sleep(level=SLEEP_LEVEL)

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._llm.wake_up()

    def close(self) -> None:
        """See `Engine.close`."""
        self._delivery.close()

    def _step(self) -> None:
        for output in self._engine.step():
            if not output.finished:
                continue
            kind, _, index = output.request_id.partition("/")
            if kind == PROBE:
                self._probed[int(index)] = prompt_logprobs(output)
            elif (group := self._groups.take(output)) is not None:
                self._delivery.release(group.policy)
                self._finished.append(group)


def add_group(
    engine: Any,
    request_ids: Sequence[str],
    prompt: Any,
    group: GroupRequest,
    params: Any,
    lora_request: Any,
) -> None:
    """Add all samples of a group to vLLM, with the checks of `LLMEngine.add_request` made once.

    Samples differ in their seeds alone, and have their own ids already, to which vLLM would add random
    characters.
    """
    tasks = engine.get_supported_tasks()
    checked = engine.input_processor.process_inputs(
        request_ids[0], prompt, params, supported_tasks=tasks, lora_request=lora_request
    )
    for request_id, seed in zip(request_ids, group.seeds, strict=True):
        request = copy.copy(checked)
        request.request_id = request.external_req_id = request_id
        request.sampling_params = with_seed(checked.sampling_params, seed)
        engine.output_processor.add_request(request, None)
        engine.engine_core.add_request(request)


def build_llm(
    model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int | None = None, runs: int = 1
) -> Any:
    """The `vllm.LLM` of a rollout engine; the benchmark measures a bare one from the same arguments."""
    arguments = engine_arguments(model_dir, spec, dtype, lora_rank, runs)
    llm = import_vllm(on_gpu=bool(spec.gpus_per_worker))
    with gpu_startup_lock(spec):
        return llm(**arguments)


def import_vllm(*, on_gpu: bool) -> type[Any]:
    """`vllm.LLM`, in the environment it needs. The import takes longer than building a small engine."""
    for key, value in (ENVIRONMENT if on_gpu else ENVIRONMENT | ON_CPU).items():
        os.environ.setdefault(key, value)
    with naming_the_extra():
        from vllm import LLM

    return LLM


def engine_arguments(
    model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int | None = None, runs: int = 1
) -> dict[str, Any]:
    """The `LLM(...)` arguments of a rollout engine; with a rank, of one that holds adapters of so many runs.

    Raises ConfigError where vLLM is not built for what the engine asks for, GPU or none, and where dtype is "nf4" and
    vLLM's plugin for it is not installed.
    """
    check_build(spec.gpus_per_worker)
    arguments: dict[str, Any] = {
        "model": str(model_dir),
        **_weights(dtype, lora_rank),
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_sequences,
        "max_num_batched_tokens": max(spec.max_batched_tokens, spec.max_model_len),
        "block_size": BLOCK_SIZE,
        "enforce_eager": not spec.gpus_per_worker,
        # Only full blocks are ever found again; looking for them costs time for every request and token.
        "enable_prefix_caching": spec.max_prompt_tokens > BLOCK_SIZE,
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "seed": 0,
        "generation_config": "vllm",
    }
    if spec.gpus_per_worker:
        arguments |= {
            "gpu_memory_utilization": spec.gpu_memory_utilization,
            "enable_sleep_mode": spec.sleep_between_steps,
        }
    else:
        arguments |= {
            "kv_cache_memory_bytes": spec.kv_cache_mib * 2**20,
            "kv_transfer_config": {
                "kv_connector": "SharedPrompt",
                "kv_connector_module_path": "polyray.rollout.vllm_shared_prompt",
                "kv_role": "kv_both",
            },
        }
    if lora_rank is not None:
        versions = (spec.max_staleness + 2) * runs
        max_loras = min(versions, MAX_LORAS)
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": engine_rank(lora_rank),
            # Embedding and head stay bare: vLLM's CPU path fails on prompt_logprobs under a wrapped head.
            "lora_target_modules": list(LINEAR_MODULES),
            # In one batch: the versions that are still trained on, and the newest.
            "max_loras": max_loras,
            # A completion may outlive that; one pushed out is read again from its files.
            "max_cpu_loras": 2 * versions,
        }
    return arguments


def _weights(dtype: str, lora_rank: int | None) -> dict[str, Any]:
    """Arguments for the dtype of the base.

    In 4 bits: the linear layers as they are read, NF4 with double quantisation in blocks of 64, as
    models/loading.py asks for, too; the plugin offers nothing else.
    """
    if dtype != NF4:
        return {"dtype": dtype}
    if lora_rank is None:
        raise RolloutError("an engine with a 4-bit base takes adapters only; set delivery.mode=adapter")
    if importlib.util.find_spec("vllm_bnb_plugin") is None:
        raise ConfigError(
            "model.quantization=nf4 needs vllm-bnb-plugin beside vLLM, which is not installed; pip install -r "
            "requirements/gpu.txt, or set model.quantization=none"
        )
    return {"dtype": "bfloat16", "quantization": "bitsandbytes"}
