"""Calls to a reward service over HTTP: patient, bounded, and never an exception for what a network may do.

    score(items) --wires.py: encoded--> split_batches --concurrent--> one request, retried --> Scored
                                                                      client_policy.py decides

AsyncRewardServiceClient belongs to one event loop; RewardServiceClient is the same for threads, its loop runs in
a thread of its own. Every call has a deadline that covers all its batches, tries and pauses. Items without an
answer are unscored with the reason, and `failures` says why in types. A batch that is refused for its content is
halved until the item at fault is alone. Called by remote.py (HttpReward), and by scripts.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import httpx

from polyray.config.remote_reward import ClientSpec
from polyray.errors import RewardError
from polyray.retry import Uniform, retry_after_s
from polyray.rewards.base import Score, ScoreItem, unscored
from polyray.rewards.client_policy import (
    CircuitBreaker,
    Failure,
    Retry,
    after_failure,
    is_alive,
    split_batches,
)
from polyray.rewards.protocol import DEFAULT_GROUP, check_matrix
from polyray.rewards.wires import EXCERPT_CHARS, Encoded, PolyrayWire, Wire

MAX_ANSWER_BYTES = 64 * 2**20
BLAMES_CONTENT = frozenset({400, 413, 422})
"""Statuses that an item may be the reason of: its batch is halved."""

ResultT = TypeVar("ResultT")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores and failures of one call.

    Example:
        Scored(scores=(Score(1.0, 7), Score(None, -1, {}, "...")), failures=(Failure("timeout", "..."),))
    """

    scores: tuple[Score, ...]
    """Scores in the order of the items."""
    failures: tuple[Failure, ...] = ()
    """One per request that had no answer."""


class AsyncRewardServiceClient:
    """Any number of concurrent calls; a context manager, or close it."""

    def __init__(
        self,
        url: str,
        spec: ClientSpec | None = None,
        *,
        wire: Wire | None = None,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Uniform = random.uniform,
    ) -> None:
        """`url` is the service's base, e.g. http://127.0.0.1:8000/my-run/reward; what comes after `token` is for
        tests."""
        self.url = url.rstrip("/")
        self.spec = spec or ClientSpec()
        self.wire: Wire = wire or PolyrayWire()
        self.breaker = CircuitBreaker(self.spec.breaker_failures, self.spec.breaker_open_s)
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=self.spec.concurrency)
        self._http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits, transport=transport)
        self._slots = asyncio.Semaphore(self.spec.concurrency)
        self._clock, self._wall_clock, self._sleep, self._uniform = clock, wall_clock, sleep, uniform

    async def __aenter__(self) -> AsyncRewardServiceClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def score(self, items: Sequence[ScoreItem]) -> Scored:
        """One Score per item, in order; raises nothing that a service or a network can cause."""
        deadline = self._clock() + self.spec.deadline_s
        scores: list[Score | None] = [None] * len(items)
        sent: list[tuple[int, Encoded]] = []
        for at, item in enumerate(items):
            try:
                encoded = self.wire.encode(item)
                self._check_size(encoded)
                sent.append((at, encoded))
            except RewardError as error:
                scores[at] = unscored(str(error))
        runs = split_batches(
            [_size(encoded) for _, encoded in sent], self.spec.max_items, self.spec.max_body_kib * 1024
        )
        answers = await asyncio.gather(
            *(self._score_batch([sent[at] for at in run], deadline) for run in runs)
        )
        failures: list[Failure] = []
        for answer in answers:
            failures += answer.failures
        for (at, _), score in zip(sent, (score for part in answers for score in part.scores), strict=True):
            scores[at] = score
        return Scored(tuple(score for score in scores if score is not None), tuple(failures))

    async def distances(self, items: Sequence[ScoreItem]) -> list[list[float]]:
        """[G][G] distances of one group as the service computes them; it scores the items itself.

        Raises RewardError where it does not, and for an OpenRLHF service, which knows none.
        """
        if not isinstance(self.wire, PolyrayWire):
            raise RewardError(f"{self.url} speaks a protocol without distances; use diversity.source")
        if not items:
            return []
        body = self.wire.body([self.wire.encode(item) for item in items], distances=True)
        answer = await self._ask_or_raise("POST", self.wire.route, body)
        matrix = (answer.get("distances") or {}).get(DEFAULT_GROUP)
        try:
            if not isinstance(matrix, list):
                raise RewardError("no distances")
            check_matrix(matrix, len(items))
        except (RewardError, TypeError, ValueError) as error:
            raise RewardError(f"{self._who} answered {error}") from None
        return matrix

    async def info(self) -> Json:
        """Answer of GET /v1/info: at least reward_model and version. Raises RewardError."""
        answer = await self._ask_or_raise("GET", "/v1/info", None)
        if not all(isinstance(answer.get(key), str) for key in ("reward_model", "version")):
            raise RewardError(
                f"{self._who} answered {str(answer)[:EXCERPT_CHARS]}; is this the address of a polyray reward "
                "service?"
            )
        return answer

    async def ask(self, method: str, route: str, body: bytes | None, deadline: float) -> Json | Failure:
        """One request until it is answered or given up; `deadline` on the client's clock."""
        tries = 0
        while True:
            now = self._clock()
            if now >= deadline:  # time spent on other batches: nothing is sent, and no failure is counted
                return Failure(
                    "timeout", f"{self._who}: deadline_s={self.spec.deadline_s:g} is over", tries=tries
                )
            refusal = self.breaker.refuses(now)
            if refusal is not None:
                return replace(refusal, message=f"{self._who} is left alone: {refusal.message}")
            tries += 1
            answer = await self._try(method, route, body, deadline - now)
            if not isinstance(answer, Failure):
                return answer
            step = after_failure(
                answer,
                tries=tries,
                now=self._clock(),
                deadline=deadline,
                spec=self.spec,
                uniform=self._uniform,
            )
            if not isinstance(step, Retry):
                return step
            await self._sleep(step.wait_s)

    async def _score_batch(self, batch: Sequence[tuple[int, Encoded]], deadline: float) -> Scored:
        body = self.wire.body([encoded for _, encoded in batch])
        async with self._slots:
            answer = await self.ask("POST", self.wire.route, body, deadline)
        if not isinstance(answer, Failure):
            try:
                return Scored(tuple(self.wire.scores(answer, len(batch))))
            except RewardError as error:
                answer = Failure("garbage", f"{self._who} answered {error}")
        elif answer.status in BLAMES_CONTENT and len(batch) > 1:
            middle = len(batch) // 2
            first = await self._score_batch(batch[:middle], deadline)
            second = await self._score_batch(batch[middle:], deadline)
            return Scored(first.scores + second.scores, first.failures + second.failures)
        return Scored((unscored(answer.message),) * len(batch), (answer,))

    async def _try(self, method: str, route: str, body: bytes | None, left_s: float) -> Json | Failure:
        """One attempt, and what the breaker learns from it."""
        timeout_s = max(0.0, min(left_s, self.spec.attempt_timeout_s))
        sent_at = self._clock()
        try:
            answer = await asyncio.wait_for(self._exchange(method, route, body), timeout_s)
        except (TimeoutError, httpx.TimeoutException):
            answer = Failure("timeout", f"{self._who} did not answer within {timeout_s:.3g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            answer = Failure(
                "unreachable",
                f"{self._who} does not answer ({type(error).__name__}: {error}); check the address and that it "
                "runs: polyray serve configs/serve/reward.yaml",
            )
        except BaseException:
            self.breaker.abandoned()
            raise
        if isinstance(answer, Failure) and not is_alive(answer):
            self.breaker.failed(answer, self._clock(), sent_at)
        else:
            self.breaker.succeeded()
        return answer

    async def _exchange(self, method: str, route: str, body: bytes | None) -> Json | Failure:
        async with self._http.stream(method, self.url + route, content=body) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    return Failure("garbage", f"{self._who} answered more than {MAX_ANSWER_BYTES} bytes")
        text = content.decode("utf-8", "replace")
        if response.status_code != httpx.codes.OK:
            return self._refusal(response, text[:EXCERPT_CHARS])
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return Failure(
                "garbage",
                f"{self._who} answered no JSON object: {text[:EXCERPT_CHARS]!r}; is this the address of a reward "
                "service?",
            )
        return answer

    def _refusal(self, response: httpx.Response, text: str) -> Failure:
        status = response.status_code
        after_s = retry_after_s(response.headers.get("retry-after"), self._wall_clock())
        kind = "overloaded" if status in (429, 503) else "failed" if status >= 500 else "refused"
        if status == 500 and not response.headers.get("content-type", "").startswith("application/json"):
            kind = "unreachable"  # Serve's proxy: the replica died with the request; our own 500 is JSON
        fix = "; check the token" if status in (401, 403) else ""
        return Failure(kind, f"{self._who} answered status {status}: {text}{fix}", status, after_s)

    async def _ask_or_raise(self, method: str, route: str, body: bytes | None) -> Json:
        answer = await self.ask(method, route, body, self._clock() + self.spec.deadline_s)
        if isinstance(answer, Failure):
            raise RewardError(answer.message)
        return answer

    def _check_size(self, encoded: Encoded) -> None:
        size, limit = _size(encoded), self.spec.max_body_kib * 1024
        if size > limit:
            raise RewardError(
                f"this item has {size} bytes, above client.max_body_kib={self.spec.max_body_kib}; it was not sent"
            )

    @property
    def _who(self) -> str:
        return f"the reward service at {self.url}"


class RewardServiceClient:
    """The same for threads: blocks until the answer is there."""

    def __init__(self, url: str, spec: ClientSpec | None = None, **options: Any) -> None:
        """See AsyncRewardServiceClient."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-client", daemon=True)
        self._thread.start()
        self._client = self._run(_built(url, spec, options))

    def __enter__(self) -> RewardServiceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The service's base."""
        return self._client.url

    @property
    def wait_s(self) -> float:
        """Seconds until the circuit breaker admits a request; 0 if it does now."""
        return self._client.breaker.wait_s(time.monotonic())

    def score(self, items: Sequence[ScoreItem]) -> Scored:
        """See AsyncRewardServiceClient."""
        return self._run(self._client.score(items))

    def distances(self, items: Sequence[ScoreItem]) -> list[list[float]]:
        """See AsyncRewardServiceClient."""
        return self._run(self._client.distances(items))

    def info(self) -> Json:
        """See AsyncRewardServiceClient."""
        return self._run(self._client.info())

    def close(self) -> None:
        """Closes the connections and ends the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _built(url: str, spec: ClientSpec | None, options: Json) -> AsyncRewardServiceClient:
    return AsyncRewardServiceClient(url, spec, **options)


def _size(encoded: Encoded) -> int:
    return sum(len(column) + 1 for column in encoded)
