"""A text engine on vLLM in this process: one thread steps it, an event loop asks.

    event loop --calls--> queue --> thread: admit, abort, load | step --deltas--> event loop

All calls that came during a step are made before the next one, so that a completion joins the running batch, or
leaves it, one token later. Deltas of one step travel to the event loop together.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.gpu_startup_lock import gpu_startup_lock
from polyray.rollout.text_engine import TextDelta, TextRequest
from polyray.rollout.vllm_delivery import AdapterDelivery, ServedVersion
from polyray.rollout.vllm_engine import import_vllm
from polyray.rollout.vllm_groups import engine_input, probe_params, prompt_logprobs
from polyray.rollout.vllm_texts import as_delta, text_engine_arguments, text_params

CLOSE_S = 10.0


class _Stream:
    """One completion on its way; `answers` belongs to the caller's event loop."""

    __slots__ = ("answers", "loop", "request", "version")

    def __init__(self, request: TextRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.loop = loop
        self.answers: asyncio.Queue[TextDelta | BaseException] = asyncio.Queue()
        self.version: ServedVersion | None = None


class _Probes:
    """The sequences of one probe, until vLLM has answered all of them."""

    __slots__ = ("done", "rows")

    def __init__(self, count: int) -> None:
        self.rows: list[np.ndarray | None] = [None] * count
        self.done: Future[np.ndarray] = Future()
        self.done.set_running_or_notify_cancel()  # the answer comes even if its caller has stopped waiting


class VllmTextEngine:
    """A `TextEngine`; `lora_rank` is the largest, `adapters` how many are served side by side, the base included."""

    def __init__(self, model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int, adapters: int) -> None:
        self._arguments = (model_dir, spec, dtype, lora_rank, adapters)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._probes: dict[str, tuple[_Probes, int]] = {}
        self._numbers = itertools.count()
        self._in_flight = 0
        self.progress = 0
        self._closing = False
        self._ready: Future[None] = Future()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="vllm-text", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """See `TextEngine.in_flight`."""
        return self._in_flight

    async def start(self) -> None:
        """See `TextEngine.start`."""
        await asyncio.wrap_future(self._ready)

    async def generate(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """See `TextEngine.generate`."""
        stream = _Stream(request, asyncio.get_running_loop())
        request_id = f"text/{next(self._numbers)}"
        self._in_flight += 1
        self._call(lambda: self._admit(request_id, stream))
        finished = False
        try:
            while not finished:
                answer = await stream.answers.get()
                finished = isinstance(answer, BaseException) or answer.finish_reason is not None
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            self._in_flight -= 1
            if not finished:
                self._call(lambda: self._abort(request_id))

    async def load(self, payload: PolicyUpdate) -> np.ndarray:
        """See `TextEngine.load`."""
        probes: Future[Future[np.ndarray]] = Future()
        self._call(lambda: _settle(probes, lambda: self._load(payload)))
        return await asyncio.wrap_future(await asyncio.wrap_future(probes))

    async def forget(self, run: str) -> None:
        """See `TextEngine.forget`."""
        done: Future[None] = Future()
        self._call(lambda: _settle(done, lambda: self._delivery.forget(run)))
        await asyncio.wrap_future(done)

    def held(self) -> dict[str, int]:
        """See `TextEngine.held`."""
        return self._delivery.in_flight

    async def close(self) -> None:
        """See `TextEngine.close`."""
        self._closing = True
        self._call(lambda: None)
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _call(self, call: Callable[[], None]) -> None:
        self._refuse_when_dead()
        self._calls.put(call)

    def _refuse_when_dead(self) -> None:
        if self.failure is not None:
            raise RolloutError(f"the engine is dead: {self.failure}") from self.failure

    def _work(self) -> None:
        """All that touches vLLM happens in this thread."""
        try:
            self._build()
        except BaseException as error:
            self.failure = error
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while not self._closing:
                self._make_calls(may_wait=not self._engine.has_unfinished_requests())
                if self._engine.has_unfinished_requests():
                    self._hand_out(self._engine.step())
                    self.progress += 1
        except BaseException as error:  # after any error of vLLM its state is unknown
            self.failure = error
        finally:
            self._give_up(self.failure or RolloutError("the engine was closed"))
            self._delivery.close()

    def _build(self) -> None:
        model_dir, spec, _, lora_rank, _ = self._arguments
        arguments = text_engine_arguments(*self._arguments)
        llm_class = import_vllm(on_gpu=bool(spec.gpus_per_worker))
        with gpu_startup_lock(spec):
            llm = llm_class(**arguments)
        self._engine: Any = llm.llm_engine
        self._tokenizer: Any = llm.get_tokenizer()
        self._delivery = AdapterDelivery(model_dir, self._engine, lora_rank)

    def _make_calls(self, may_wait: bool) -> None:
        try:
            if may_wait:
                self._calls.get()()
            while True:
                self._calls.get_nowait()()
        except queue.Empty:
            return

    def _admit(self, request_id: str, stream: _Stream) -> None:
        try:
            self._refuse_when_dead()
            version = self._delivery.served(stream.request.run)
            prompt = engine_input(list(stream.request.prompt_token_ids))
            params = text_params(stream.request)
            self._engine.add_request(request_id, prompt, params, lora_request=version.lora_request)
        except Exception as error:  # this caller's own request; the engine continues with the others'
            _post(stream.loop, [(stream, error)])
            return
        self._delivery.hold(version.policy)
        stream.version = version
        self._streams[request_id] = stream

    def _abort(self, request_id: str) -> None:
        stream = self._streams.pop(request_id, None)
        if stream is not None:
            self._engine.abort_request([request_id])
            self._release(stream)

    def _load(self, payload: PolicyUpdate) -> Future[np.ndarray]:
        self._refuse_when_dead()
        self._delivery.load(payload)
        lora_request = self._delivery.probed().lora_request
        probes = _Probes(len(payload.probe.sequences))
        for index, sequence in enumerate(payload.probe.sequences):
            request_id = f"probe/{next(self._numbers)}"
            self._probes[request_id] = (probes, index)
            prompt = engine_input(list(sequence))
            self._engine.add_request(request_id, prompt, probe_params(), lora_request=lora_request)
        return probes.done

    def _hand_out(self, outputs: list[Any]) -> None:
        posts: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, TextDelta | BaseException]]] = {}
        for output in outputs:
            if output.request_id in self._probes:
                if output.finished:
                    self._take_probe(output)
                continue
            stream = self._streams.get(output.request_id)
            if stream is None:  # given up meanwhile
                continue
            if output.finished:
                del self._streams[output.request_id]
                self._release(stream)
            delta = as_delta(stream.request, output, self._tokenizer)
            posts.setdefault(stream.loop, []).append((stream, delta))
        for loop, batch in posts.items():
            _post(loop, batch)

    def _take_probe(self, output: Any) -> None:
        probes, index = self._probes.pop(output.request_id)
        probes.rows[index] = prompt_logprobs(output)
        rows = [row for row in probes.rows if row is not None]
        if len(rows) == len(probes.rows):
            probes.done.set_result(np.concatenate(rows))

    def _release(self, stream: _Stream) -> None:
        assert stream.version is not None
        self._delivery.release(stream.version.policy)

    def _give_up(self, error: BaseException) -> None:
        reason = RolloutError(f"the engine is gone: {type(error).__name__}: {error}")
        for stream in self._streams.values():
            _post(stream.loop, [(stream, reason)])
        for probes, _ in self._probes.values():
            if not probes.done.done():
                probes.done.set_exception(reason)
        self._streams.clear()
        self.failure = error  # later requests are refused at once
        while not self._calls.empty():  # calls after the last step get the same error
            self._calls.get_nowait()()


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    """Run `work` and resolve the future, unless its caller has cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _post(loop: asyncio.AbstractEventLoop, batch: list[tuple[_Stream, TextDelta | BaseException]]) -> None:
    def deliver() -> None:
        for stream, answer in batch:
            stream.answers.put_nowait(answer)

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:  # the loop has been closed: no caller waits any more
        return
