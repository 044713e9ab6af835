"""Completions of one request: reserved in the engine's queue, sampled side by side, given up together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from polyray.errors import RolloutError
from polyray.serving.generation.errors import DeadlineExceeded, EngineBusy
from polyray.serving.generation.metrics import GenerationMetrics
from polyray.serving.generation.openai_answers import Sampled
from polyray.serving.generation.text_engine import TextEngine
from polyray.types import TextDelta, TextRequest


class Sampler:
    """Queue between requests and the engine. Belongs to one event loop."""

    def __init__(
        self,
        engine: TextEngine,
        max_sequences: int,
        max_queued: int,
        timeout_s: float,
        metrics: GenerationMetrics,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._max_sequences = max_sequences
        self._max_queued = max_queued
        self._reserved = 0

    @property
    def running(self) -> int:
        """Completions that the engine decodes, as far as it can be told from outside."""
        return min(self._reserved, self._max_sequences)

    @property
    def queued(self) -> int:
        """Completions that wait for the engine."""
        return max(0, self._reserved - self._max_sequences)

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Room for so many completions. Raises EngineBusy where as many wait already as may.

        A request that comes while the queue has room may overfill it: otherwise a large one would never get in.
        """
        if self.queued >= self._max_queued:
            raise EngineBusy(
                f"{self.queued} completions wait for the engine, the limit is {self._max_queued}; try again later, "
                "add replicas, or raise engine.max_queued_sequences"
            )
        self._reserved += count
        self._metrics.load(self.queued, self.running)
        try:
            yield
        finally:
            self._reserved -= count
            self._metrics.load(self.queued, self.running)

    async def complete(self, requests: Sequence[TextRequest]) -> list[Sampled]:
        """Complete all requests. If one fails, or the caller goes away, the others leave the engine at once.

        Raises RolloutError, and DeadlineExceeded.
        """
        whole: list[Sampled | None] = [None] * len(requests)

        async def listen(place: int, request: TextRequest) -> None:
            whole[place] = await self._whole(request)

        try:
            async with asyncio.timeout(self._timeout_s), asyncio.TaskGroup() as group:
                for place, request in enumerate(requests):
                    group.create_task(listen(place, request))
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        except TimeoutError:
            raise self._too_late() from None
        finally:
            self._note(requests, whole)
        return [each for each in whole if each is not None]

    async def stream(self, requests: Sequence[TextRequest]) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """(place of the request, what was added), as they come; closing it gives all of them up.

        Raises RolloutError, and DeadlineExceeded.
        """
        started = asyncio.get_running_loop().time()
        deadline = started + self._timeout_s
        arrived: asyncio.Queue[tuple[int, TextDelta] | Exception] = asyncio.Queue()

        async def listen(place: int, request: TextRequest) -> None:
            try:
                async with aclosing(self._engine.generate(request)) as deltas:
                    async for delta in deltas:
                        arrived.put_nowait((place, _checked(delta)))
            except Exception as error:  # raised to the reader of the stream
                arrived.put_nowait(error)

        tasks = [asyncio.create_task(listen(place, request)) for place, request in enumerate(requests)]
        whole: list[Sampled | None] = [None] * len(requests)
        partial = [Sampled() for _ in requests]
        try:
            while None in whole:
                # Entered and left within one step: the next one may run in another task.
                async with asyncio.timeout_at(deadline):
                    item = await arrived.get()
                if isinstance(item, Exception):
                    raise item
                place, delta = item
                if not any(each.token_ids for each in partial):
                    self._metrics.first_token(asyncio.get_running_loop().time() - started)
                partial[place].add(delta)
                if delta.finish_reason is not None:
                    whole[place] = partial[place]
                yield item
        except TimeoutError:
            raise self._too_late() from None
        finally:
            for task in tasks:
                task.cancel()
            self._note(requests, whole)
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, requests: Sequence[TextRequest], whole: Sequence[Sampled | None]) -> None:
        finished = [each for each in whole if each is not None]
        tokens = sum(len(each.token_ids) for each in finished)
        if requests:
            self._metrics.completed(requests[0].run, len(finished), tokens)
        self._metrics.cancel(len(whole) - len(finished))

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"not finished within {self._timeout_s:g} s, and given up; ask for fewer or shorter completions, or "
            "raise limits.request_timeout_s"
        )

    async def _whole(self, request: TextRequest) -> Sampled:
        sampled = Sampled()
        async with aclosing(self._engine.generate(request)) as deltas:
            async for delta in deltas:
                sampled.add(_checked(delta))
        return sampled


def _checked(delta: TextDelta) -> TextDelta:
    if delta.finish_reason == "error":
        raise RolloutError("the engine gave up a completion; its log says why")
    return delta


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """First error that happened before the group was cancelled."""
    error = failures.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
