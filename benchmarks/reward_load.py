"""Load for the reward service: texts that no cache knows, callers in a closed or an open loop, what became of each.

No limits here, and no service: reward.py starts one and judges.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from polyray.rewards.base import ScoreItem

_PROSE = (
    "people ask why the small quiet house near our river stays warm when every other place freezes and nobody "
    "knows what to answer because this question has two sides one about money and another about time which we "
    "rarely compare honestly although it would help friends decide whether they should move again next year"
)
WORDS = sorted(set(_PROSE.split()))
WORDS_PER_TEXT = (12, 40)
CLIENT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what came of it.

    Example:
        Answer(started_s=0.31, seconds=0.08, status=200, scores=(0.4, 0.7), expected=(0.4, 0.7))
    """

    started_s: float
    """Start of the request, in seconds after the load began."""
    seconds: float
    status: int
    """0 where no HTTP answer came."""
    scores: tuple[float | None, ...] = ()
    expected: tuple[float, ...] = ()
    """Scores of a direct call; empty if there was none."""

    @property
    def is_wrong(self) -> bool:
        """Answered with another score than a direct call gives."""
        return bool(self.expected) and self.status == 200 and self.scores != self.expected


@dataclass
class Texts:
    """Groups of items of which no two texts are equal: every text ends in a number of its own."""

    group_size: int
    seed: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def group(self) -> list[ScoreItem]:
        """One prompt and its completions."""
        prompt = self._text()
        return [ScoreItem(prompt, self._text()) for _ in range(self.group_size)]

    def _text(self) -> str:
        length = int(self._random.integers(*WORDS_PER_TEXT))
        return f"{' '.join(self._random.choice(WORDS, length))} {self.seed}-{next(self._numbers)}"


Request = tuple[Sequence[ScoreItem], Sequence[float]]
"""Items, and the scores they must get; no scores: any."""
Send = Callable[[Request], Awaitable[Answer]]


async def closed_loop(send: Send, requests: Iterator[Request], callers: int, seconds: float) -> list[Answer]:
    """`callers` that each send their next request when the last one is answered, for `seconds`; all are answered."""
    answers: list[Answer] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            answers.append(await send(next(requests)))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return answers


async def open_loop(
    send: Send, requests: Iterator[Request], rate: float, count: int, seed: int = 0
) -> list[Answer]:
    """`count` requests at random times (a Poisson process of `rate` a second), independent of the answers."""
    pauses = np.random.default_rng(seed).exponential(1.0 / rate, count)
    tasks: list[asyncio.Task[Answer]] = []
    due = time.perf_counter()
    for pause in pauses:
        due += pause
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(send(next(requests))))  # type: ignore[arg-type]
    return list(await asyncio.gather(*tasks))


class HttpSender:
    """Posts requests to /v1/score, without retries; a context manager.

    One client per connection: a shared pool searches all its connections for every request.
    """

    def __init__(self, url: str, token: str | None, connections: int) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        self._clients = [
            httpx.AsyncClient(base_url=url, headers=headers, timeout=CLIENT_TIMEOUT_S, verify=False)
            for _ in range(connections)
        ]
        for client in self._clients:
            self._free.put_nowait(client)
        self._began = time.perf_counter()

    async def __aenter__(self) -> HttpSender:
        return self

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients:
            await client.aclose()

    async def __call__(self, request: Request) -> Answer:
        """One request, timed; it waits for a free connection where all are taken."""
        items, expected = request
        body = {"items": [{"prompt": item.prompt, "completion": item.completion} for item in items]}
        started = time.perf_counter()
        client = await self._free.get()
        try:
            response = await client.post("/v1/score", json=body)
        except httpx.HTTPError:
            return Answer(started - self._began, time.perf_counter() - started, 0)
        finally:
            self._free.put_nowait(client)
        seconds = time.perf_counter() - started
        if response.status_code != httpx.codes.OK:
            return Answer(started - self._began, seconds, response.status_code)
        scores = tuple(score["score"] for score in response.json()["scores"])
        return Answer(started - self._began, seconds, response.status_code, scores, tuple(expected))


def fresh(texts: Texts) -> Iterator[Request]:
    """New groups without expectations."""
    while True:
        yield texts.group(), ()


def repeated(groups: Sequence[Request], seed: int = 0) -> Iterator[Request]:
    """Known groups in random order, for ever."""
    random = np.random.default_rng(seed)
    while True:
        yield groups[int(random.integers(len(groups)))]
