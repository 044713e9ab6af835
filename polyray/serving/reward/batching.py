"""Dynamic batches by token budget: what waits while one batch is scored becomes the next one.

    submit(payload, tokens) --queue, in order of arrival--> run([payloads]) --one result each--> submit returns

A plain asyncio class. Serve's own `@serve.batch` cuts its batches by a timer even while an earlier one is still
being scored, so that under load many small batches queue up behind a long one, and a request that did not fit goes
to the back of the queue; here nothing is cut before it can run, and order is kept. One batch runs at a time.
Called by models.py, which owns one batcher per reward model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from polyray.config.service import ServiceSpec
from polyray.errors import RewardError

PayloadT = TypeVar("PayloadT")

RETRY_AFTER_S = 1
"""Pause that a 429 tells its caller."""
BYTES_PER_TOKEN = 4
"""Bytes per token of English and of most vocabularies; an estimate needs no tokenizer."""


class ServiceOverloaded(RewardError):
    """The queue of a replica is full; another try after a while may find room."""


def estimated_tokens(*texts: str) -> int:
    """About how many tokens the texts have together; at least 1."""
    num_bytes = sum(len(t) if t.isascii() else len(t.encode("utf-8", "surrogatepass")) for t in texts)
    return 1 + num_bytes // BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batch and of the queue behind it.

    Example:
        BatchLimits(max_payloads=64, max_tokens=16384, wait_s=0.002, max_queued_batches=16)
    """

    max_payloads: int
    max_tokens: int
    """A payload over it is a batch of its own."""
    wait_s: float
    """Time that an idle batcher waits for more work, in seconds."""
    max_queued_batches: int

    @classmethod
    def of(cls, spec: ServiceSpec) -> BatchLimits:
        """The limits of a service."""
        return cls(
            spec.max_batch_size, spec.max_batch_tokens, spec.batch_wait_timeout_s, spec.max_queued_batches
        )


@dataclass(slots=True, eq=False)
class _Waiting(Generic[PayloadT]):
    payload: PayloadT
    tokens: int
    future: asyncio.Future[Any]


class TokenBatcher(Generic[PayloadT]):
    """Belongs to one event loop; any number of concurrent `submit` calls."""

    def __init__(
        self, run: Callable[[Sequence[PayloadT]], Awaitable[Sequence[Any]]], limits: BatchLimits
    ) -> None:
        """`run` gives one result per payload, in order; a result that is an exception is raised to its caller, one
        that `run` raises to all of them."""
        self._run = run
        self._limits = limits
        self._queue: deque[_Waiting[PayloadT]] = deque()
        self._queued_tokens = 0
        self._worker: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Payloads that wait."""
        return len(self._queue)

    def check_room(self) -> None:
        """Raises ServiceOverloaded while the queue holds more than `max_queued_batches`, by payloads or tokens."""
        batches = max(
            len(self._queue) / self._limits.max_payloads, self._queued_tokens / self._limits.max_tokens
        )
        if batches >= self._limits.max_queued_batches:
            raise ServiceOverloaded(
                f"{batches:.0f} full batches wait already, the limit is {self._limits.max_queued_batches}; try again "
                "later, add replicas, or raise reward.service.max_queued_batches"
            )

    async def submit(self, payload: PayloadT, tokens: int) -> Any:
        """The result for `payload`. A caller that is cancelled while it waits leaves the queue."""
        waiting = _Waiting(payload, tokens, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued_tokens += tokens
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
                self._queued_tokens -= tokens
            raise

    async def _work(self) -> None:
        """Answer batches until nothing waits. An idle batcher holds nothing, so that a replaced model can go."""
        if not self._is_full():
            await asyncio.sleep(self._limits.wait_s)
        while self._queue:
            await self._answer(self._cut())

    def _is_full(self) -> bool:
        return len(self._queue) >= self._limits.max_payloads or self._queued_tokens >= self._limits.max_tokens

    def _cut(self) -> list[_Waiting[PayloadT]]:
        """The longest head of the queue that fits; at least one."""
        batch: list[_Waiting[PayloadT]] = []
        tokens = 0
        while self._queue and len(batch) < self._limits.max_payloads:
            tokens += self._queue[0].tokens
            if batch and tokens > self._limits.max_tokens:
                break
            batch.append(self._queue.popleft())
            self._queued_tokens -= batch[-1].tokens
        return batch

    async def _answer(self, batch: list[_Waiting[PayloadT]]) -> None:
        try:
            results = await self._run([waiting.payload for waiting in batch])
            if len(results) != len(batch):
                raise RewardError(f"{len(results)} results for a batch of {len(batch)}; return one for each")
        except Exception as error:  # belongs to the callers: the next batch may be fine
            results = [error] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
