"""Judges in a separate thread, so that sampling, scoring and judging overlap.

    runner.submit(item) ...; runner.finish()      the caller's thread, e.g. while samples arrive
    for judgement in runner.results(): ...        in the order of submission, for any order of answers
    runner.stream(items)                          both, for an iterable of items

An event loop in the thread keeps at most `concurrency` requests in flight. An error that ends the job (budget,
key, too many unjudged) is raised by `results` after everything that was judged before it in order. Later answers
are in the cache and cost nothing when the job is started again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from polyray.config.judge import JudgeMode, JudgeSpec
from polyray.errors import JudgeError
from polyray.extensions import naming_the_extra
from polyray.shelf.judge.cache import AnswerCache
from polyray.shelf.judge.client import JudgeClient
from polyray.shelf.judge.items import JudgeItem, Judgement, Usage
from polyray.shelf.judge.judges import JUDGES, judge_item
from polyray.shelf.judge.providers import Provider, read_key

Progress = Callable[[int, Usage], None]
"""(items done, what they have cost in this start), after every item, in the thread that reads the results."""

ITEMS_PER_SLOT = 4
"""Items in work per concurrent request: enough to keep every slot busy behind a slow one."""


def build_provider(spec: JudgeSpec) -> Provider:
    """The provider of a configuration; its key comes from the environment. Raises ConfigError without one."""
    key = read_key(spec)
    with naming_the_extra():  # also where it is built in a replica
        if spec.provider == "anthropic":
            from polyray.shelf.judge.anthropic_provider import AnthropicProvider

            return AnthropicProvider(spec, key)
        from polyray.shelf.judge.openai_provider import OpenAIProvider

        return OpenAIProvider(spec, key)


class UnjudgedGuard:
    """Stop a job with an unusable judge: counts unjudged items and raises above a share."""

    MIN_ITEMS = 20
    """Items before which the share is noise, and only `finish` looks at it."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self.done = 0
        self.unjudged = 0
        self._last_reason = ""

    def count(self, judgement: Judgement) -> None:
        """Counts one, raises JudgeError once the share is clear."""
        self.done += 1
        if not judgement.judged:
            self.unjudged += 1
            self._last_reason = judgement.reason or ""
        if self.done >= self.MIN_ITEMS:
            self.finish()

    def finish(self) -> None:
        """Raises JudgeError where too many are unjudged."""
        if self.done and self.unjudged / self.done > self._max_share:
            raise JudgeError(
                f"{self.unjudged} of {self.done} items are unjudged, above "
                f"judge.max_unjudged_share={self._max_share}; the last reason: {self._last_reason}. "
                "Check the judge's model and structured_output; the rows are kept"
            )


class JudgeRunner:
    """One judge at work. A context manager; `close` ends the thread."""

    def __init__(
        self,
        spec: JudgeSpec,
        mode: JudgeMode,
        cache_path: Path,
        *,
        owner: str = "",
        guard: UnjudgedGuard | None = None,
        progress: Progress | None = None,
        build: Callable[[JudgeSpec], Provider] = build_provider,
        open_cache: Callable[[Path, str], AnswerCache] = AnswerCache,
    ) -> None:
        """`owner` is the run that pays (cache.py). Raises ConfigError where the key is not set or the cache is
        in use."""
        read_key(spec)
        self._spec = spec
        self._judge = JUDGES[mode]
        self._build = build
        self._guard = guard or UnjudgedGuard(spec.max_unjudged_share)
        self._progress = progress
        self._cache = open_cache(cache_path, owner)
        self._room = threading.Semaphore(ITEMS_PER_SLOT * spec.concurrency)
        self._done: queue.SimpleQueue[tuple[int, Judgement | BaseException]] = queue.SimpleQueue()
        self._early: dict[int, Judgement | BaseException] = {}
        self._submitted = 0
        self._returned = 0
        self._finished = self._closed = False
        self._fatal: BaseException | None = None
        self._client: JudgeClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="judge", daemon=True)
        self._thread.start()

    def __enter__(self) -> JudgeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def spent(self) -> Usage:
        """Spending over all starts of the owner."""
        return self._client.ledger.spent if self._client is not None else Usage()

    @property
    def num_cached(self) -> int:
        """Answers that came from the cache."""
        return self._client.num_cached if self._client is not None else 0

    def submit(self, item: JudgeItem) -> None:
        """Take an item; waits while the judge has enough to do, never for the reader of the results."""
        if self._finished:
            raise RuntimeError("no item can be submitted after finish() or close()")
        self._ready.wait()
        self._room.acquire()
        number = self._submitted
        self._submitted += 1
        self._loop.call_soon_threadsafe(self._begin, number, item)

    def finish(self) -> None:
        """No more items: `results` ends after the last one."""
        self._finished = True
        self._done.put((-1, StopIteration()))  # wakes a reader that waits for an item which will not come

    def results(self) -> Iterator[Judgement]:
        """All judgements in the order of submission, each as soon as it and those before it are there; ends
        after `finish`. Raises what ends the job."""
        while not (self._finished and self._returned == self._submitted):
            judgement = self._next(block=True)
            if judgement is not None:
                yield judgement  # first, so that the caller has it when the guard stops the job
                self._guard.count(judgement)
        self._guard.finish()

    def stream(self, items: Iterable[JudgeItem]) -> Iterator[Judgement]:
        """Submits `items` lazily and yields their judgements in order, with a bounded number of them between."""
        window = 2 * ITEMS_PER_SLOT * self._spec.concurrency
        for item in items:
            self.submit(item)
            while (ready := self._next(block=self._submitted - self._returned >= window)) is not None:
                yield ready
                self._guard.count(ready)
        self.finish()
        yield from self.results()

    def close(self) -> None:
        """Cancels what is in flight and ends the thread; a second call does nothing."""
        if self._closed:
            return
        self._closed = self._finished = True
        self._ready.wait()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._cache.close()

    def _next(self, *, block: bool) -> Judgement | None:
        """The next judgement in order; None where it is not there yet (or, blocking, `finish` was called)."""
        while self._returned not in self._early:
            try:
                number, outcome = self._done.get(block=block)
            except queue.Empty:
                return None
            if number < 0:
                return None
            self._early[number] = outcome
        outcome = self._early.pop(self._returned)
        if isinstance(outcome, BaseException):
            self._early[self._returned] = outcome  # a second reading raises it again
            raise outcome
        self._returned += 1
        if self._progress is not None and self._client is not None:
            self._progress(self._returned, self._client.ledger.spent_now)
        return outcome

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            self._client = JudgeClient(self._build(self._spec), self._spec, self._cache)
        except Exception as error:
            self._fatal = error
        self._ready.set()
        await self._stop.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def _begin(self, number: int, item: JudgeItem) -> None:
        if self._fatal is not None or self._client is None:
            self._end(number, self._fatal or RuntimeError("the judge did not start"))
            return
        task = self._loop.create_task(self._work(number, item, self._client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, number: int, item: JudgeItem, client: JudgeClient) -> None:
        try:
            outcome: Judgement | BaseException = await judge_item(self._judge, item, client)
        except BaseException as error:  # any error must reach the reader
            self._fatal = self._fatal or error
            outcome = error
        self._end(number, outcome)

    def _end(self, number: int, outcome: Judgement | BaseException) -> None:
        self._room.release()
        self._done.put((number, outcome))
