"""vLLM in processes of its own (tensor parallelism), behind the same protocol as the engine in this process.

The engine decodes on its own (vllm_processes.py); `poll` waits a moment for what finished. Adapter delivery only. An
engine that died fails `poll`; one that hangs is found by its groups' deadline, like any other.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.vllm_delivery import AdapterDelivery
from polyray.rollout.vllm_engine import PROBE, SLEEP_LEVEL, engine_arguments
from polyray.rollout.vllm_groups import (
    RunningGroups,
    engine_input,
    probe_params,
    prompt_logprobs,
    sampling_params,
)
from polyray.rollout.vllm_processes import VllmProcesses
from polyray.types import Group, GroupRequest

POLL_S = 0.02
"""The longest a `poll` waits for something to finish."""


class AsyncVllmEngine:
    """An `Engine` on vLLM's AsyncLLM; `lora_rank` is that of the adapters to come, of so many `runs`."""

    keeps_versions = True

    def __init__(self, model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int, runs: int = 1) -> None:
        self.max_sequences = spec.max_sequences
        arguments = engine_arguments(model_dir, spec, dtype, lora_rank, runs)
        self._processes = VllmProcesses(arguments, spec)
        self._llm = self._processes.llm
        try:
            self._delivery = AdapterDelivery(model_dir, self._processes, lora_rank)
        except BaseException:
            self._processes.close()
            raise
        self._groups = RunningGroups(self._llm.get_tokenizer(), spec.max_model_len)
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._probes = 0

    @property
    def idle(self) -> bool:
        """True where no group is queued, running or finished but not yet polled."""
        return not self._groups

    def submit(self, request: GroupRequest) -> None:
        """See `Engine.submit`."""
        version = self._delivery.served(request.run)
        prompt = engine_input(self._groups.admit(request, version.policy))
        self._delivery.hold(version.policy)
        request_ids = self._groups.request_ids(request.group_id)
        params = self._groups.params(request)
        for request_id, sample_params in zip(request_ids, sampling_params(request, params), strict=True):
            sample = self._sample(request_id, prompt, sample_params, version.lora_request)
            self._processes.begin(sample)

    def poll(self) -> list[Group]:
        """See `Engine.poll`. RolloutError where the engine is dead."""
        finished: list[Group] = []
        try:
            answer = self._answers.get(timeout=POLL_S)
            while True:
                if isinstance(answer, BaseException):
                    raise RolloutError(
                        f"vLLM's processes failed: {type(answer).__name__}: {answer}"
                    ) from answer
                group = self._groups.take(answer)
                if group is not None:
                    self._delivery.release(group.policy)
                    finished.append(group)
                answer = self._answers.get_nowait()
        except queue.Empty:
            return finished

    def abort(self, group_id: int) -> None:
        """See `Engine.abort`."""
        given_up = self._groups.forget(group_id)
        if given_up is not None:
            policy, request_ids = given_up
            self._processes.call(self._llm.abort(request_ids))
            self._delivery.release(policy)

    def drain(self) -> list[Group]:
        """See `Engine.drain`."""
        finished: list[Group] = []
        while not self.idle:
            finished.extend(self.poll())
        return finished

    def load(self, payload: PolicyUpdate) -> None:
        """See `Engine.load`."""
        self._delivery.load(payload)

    def forget(self, run: str) -> None:
        """See `Engine.forget`."""
        self._delivery.forget(run)

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """See `Engine.probe`."""
        lora_request = self._delivery.probed().lora_request
        self._probes += 1
        rows = [
            self._answer(
                f"{PROBE}/{self._probes}/{index}", engine_input(list(row)), probe_params(), lora_request
            )
            for index, row in enumerate(sequences)
        ]
        return np.concatenate([prompt_logprobs(output) for output in self._processes.call(_gathered(rows))])

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        self._processes.call(self._llm.sleep(SLEEP_LEVEL))

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._processes.call(self._llm.wake_up())

    def close(self) -> None:
        """See `Engine.close`."""
        try:
            self._processes.close()
        finally:
            self._delivery.close()

    async def _sample(self, request_id: str, prompt: Any, params: Any, lora_request: Any) -> None:
        try:
            self._answers.put(await self._answer(request_id, prompt, params, lora_request))
        except asyncio.CancelledError:  # given up by `abort`
            raise
        except Exception as error:
            self._answers.put(error)

    async def _answer(self, request_id: str, prompt: Any, params: Any, lora_request: Any) -> Any:
        outputs = self._llm.generate(prompt, params, request_id, lora_request=lora_request)
        answers = [output async for output in outputs if output.finished]
        if not answers:
            raise RolloutError(f"vLLM ended request {request_id} without an answer")
        return answers[0]


async def _gathered(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*work)
