"""A text engine on vLLM in its own processes, for one GPU or several.

vLLM batches and decodes on its own (vllm_processes.py). A completion is a task in its event loop. A caller that stops
listening cancels the task, which takes the completion out of the batch.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.text_engine import TextDelta, TextRequest, merged
from polyray.rollout.vllm_delivery import AdapterDelivery, ServedVersion
from polyray.rollout.vllm_groups import engine_input, probe_params, prompt_logprobs
from polyray.rollout.vllm_processes import VllmProcesses
from polyray.rollout.vllm_texts import as_delta, text_engine_arguments, text_params

ResultT = TypeVar("ResultT")


class VllmTextProcesses:
    """A `TextEngine`; `lora_rank` is the largest, `adapters` how many are served side by side, the base included."""

    def __init__(self, model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int, adapters: int) -> None:
        self._model_dir, self._spec, self._lora_rank = model_dir, spec, lora_rank
        self._arguments = (model_dir, spec, dtype, lora_rank, adapters)
        # Loaded adapters and their users: read and changed one at a time, and each may wait for vLLM's processes.
        self._turn = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm-adapters")
        self._loading = asyncio.Lock()
        self._numbers = itertools.count()
        self._in_flight = 0
        self.progress = 0
        self.failure: BaseException | None = None

    @property
    def in_flight(self) -> int:
        """See `TextEngine.in_flight`."""
        return self._in_flight

    async def start(self) -> None:
        """See `TextEngine.start`."""
        await asyncio.to_thread(self._build)

    def _build(self) -> None:
        arguments = text_engine_arguments(*self._arguments)
        self._processes = VllmProcesses(arguments, self._spec)
        self._tokenizer: Any = self._processes.llm.get_tokenizer()
        self._delivery = AdapterDelivery(self._model_dir, self._processes, self._lora_rank)

    async def generate(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """See `TextEngine.generate`."""
        if self.failure is not None:
            raise RolloutError(f"the engine is dead: {self.failure}") from self.failure
        self._in_flight += 1
        try:
            version = await self._in_turn(self._hold, request.run)
        except BaseException:
            self._in_flight -= 1
            raise
        answers: asyncio.Queue[TextDelta | BaseException] = asyncio.Queue()
        task = self._processes.begin(self._sample(request, version, answers, asyncio.get_running_loop()))
        finished = False
        try:
            while not finished:
                answer = await answers.get()
                finished = isinstance(answer, BaseException) or answer.finish_reason is not None
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            self._in_flight -= 1
            if not finished:
                task.cancel()
            await asyncio.shield(self._in_turn(self._delivery.release, version.policy))

    async def load(self, payload: PolicyUpdate) -> np.ndarray:
        """See `TextEngine.load`."""
        async with self._loading:
            await self._in_turn(self._delivery.load, payload)
            lora_request = self._delivery.probed().lora_request
            rows = [
                asyncio.wrap_future(self._processes.begin(self._probe(list(sequence), lora_request)))
                for sequence in payload.probe.sequences
            ]
            return np.concatenate(await asyncio.gather(*rows))

    async def forget(self, run: str) -> None:
        """See `TextEngine.forget`."""
        await self._in_turn(self._delivery.forget, run)

    def held(self) -> dict[str, int]:
        """See `TextEngine.held`."""
        return self._delivery.in_flight

    async def close(self) -> None:
        """See `TextEngine.close`."""
        self.failure = self.failure or RolloutError("the engine was closed")
        self._turn.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._processes.close)
        self._delivery.close()

    def _hold(self, run: str) -> ServedVersion:
        version = self._delivery.served(run)
        self._delivery.hold(version.policy)
        return version

    async def _in_turn(self, work: Callable[..., ResultT], *arguments: Any) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._turn, work, *arguments)

    async def _sample(
        self,
        request: TextRequest,
        version: ServedVersion,
        answers: asyncio.Queue[TextDelta | BaseException],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Runs in vLLM's loop; being cancelled there aborts the completion."""
        try:
            prompt = engine_input(list(request.prompt_token_ids))
            streamed = replace(request, stream=True)  # always: new text shows progress
            held_back: list[TextDelta] = []
            outputs = self._processes.llm.generate(
                prompt,
                text_params(streamed),
                f"text-{next(self._numbers)}",
                lora_request=version.lora_request,
            )
            async for output in outputs:
                self.progress += 1
                held_back.append(as_delta(streamed, output, self._tokenizer))
                if request.stream or output.finished:
                    loop.call_soon_threadsafe(answers.put_nowait, merged(held_back))
                    held_back = []
        except Exception as error:
            if type(error).__name__ == "EngineDeadError":
                self.failure = error
            reason = RolloutError(f"vLLM's processes failed: {type(error).__name__}: {error}")
            loop.call_soon_threadsafe(answers.put_nowait, reason)

    async def _probe(self, sequence: list[int], lora_request: Any) -> np.ndarray:
        request_id = f"probe-{next(self._numbers)}"
        outputs = self._processes.llm.generate(
            engine_input(sequence), probe_params(), request_id, lora_request=lora_request
        )
        async for output in outputs:
            if output.finished:
                return prompt_logprobs(output)
        raise RolloutError(f"vLLM ended {request_id} without an answer")
