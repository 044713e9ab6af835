"""Load for the generation service: callers in a closed loop, and one request after another. No limits here."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from polyray.errors import RolloutError

CLIENT_TIMEOUT_S = 300.0
PROMPT_TOKENS = 16
NUMBER_DIGITS = 5
FIRST_TOKEN, LAST_TOKEN = 10, 28
"""Plain tokens of the embedded tokenizer."""


@dataclass
class Prompts:
    """Token ids, no two prompts alike."""

    seed: int = 0
    length: int = PROMPT_TOKENS
    """Tokens of a prompt, at least NUMBER_DIGITS."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._draw = np.random.default_rng(self.seed)

    def tokens(self) -> list[int]:
        """The next one; its first tokens are its number."""
        number = next(self._numbers)
        digits = [FIRST_TOKEN + int(digit) for digit in f"{number:0{NUMBER_DIGITS}d}"]
        rest = self._draw.integers(FIRST_TOKEN, LAST_TOKEN, self.length - len(digits))
        return [*digits, *(int(token) for token in rest)]


@dataclass(frozen=True, slots=True)
class Soak:
    """Results of the requests of many callers.

    Example:
        Soak(statuses=Counter({200: 640, 429: 80}), worst_s=4.1, failures=())
    """

    statuses: Counter[int]
    worst_s: float
    failures: tuple[str, ...]
    """The first few that were neither answered nor refused for load."""

    @property
    def bad(self) -> int:
        """Neither answered nor 429."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 429))


class GenerationCaller:
    """One HTTP client of a service; a context manager."""

    def __init__(self, url: str, model: str, connections: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT_S, limits=limits)
        self._model = model

    async def __aenter__(self) -> GenerationCaller:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def completion(
        self, prompt: list[int], max_tokens: int, n: int = 1, seed: int = 0
    ) -> dict[str, Any]:
        """The answer of /v1/completions. Raises httpx.HTTPStatusError."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "n": n, "seed": seed}
        response = await self._http.post("/v1/completions", json=body)
        return response.raise_for_status().json()

    async def candidates(self, prompt: str, max_tokens: int, k: int, seed: int = 0) -> dict[str, Any]:
        """The answer of /v1/candidates. Raises httpx.HTTPStatusError."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "k": k, "seed": seed}
        response = await self._http.post("/v1/candidates", json=body)
        return response.raise_for_status().json()

    async def tokens_per_second(
        self, prompts: Prompts, callers: int, requests: int, max_tokens: int
    ) -> float:
        """Tokens a second of `requests` completions by `callers`, each sending its next one after an answer."""
        waiting = iter([prompts.tokens() for _ in range(requests)])
        tokens = 0

        async def caller() -> None:
            nonlocal tokens
            for prompt in waiting:
                answer = await self.completion(prompt, max_tokens)
                tokens += answer["usage"]["completion_tokens"]

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return tokens / (time.perf_counter() - started)

    async def soak(self, clients: int, seconds: float, max_tokens: int) -> Soak:
        """Completions and candidates, whole and streamed, as fast as answers come; refusals are waited out."""
        statuses: Counter[int] = Counter()
        failures: list[str] = []
        worst = 0.0
        end = time.perf_counter() + seconds

        async def client(number: int) -> None:
            nonlocal worst
            prompts = Prompts(number)
            while time.perf_counter() < end:
                kind = self._kinds(prompts, max_tokens)[number % 4]
                started = time.perf_counter()
                try:
                    status, retry_s, failure = await kind()
                except httpx.HTTPError as error:
                    status, retry_s, failure = 0, 0.0, f"{type(error).__name__}: {error}"
                worst = max(worst, time.perf_counter() - started)
                statuses[status] += 1
                if failure:
                    failures.append(failure)
                await asyncio.sleep(retry_s)

        await asyncio.gather(*(client(number) for number in range(clients)))
        return Soak(statuses, worst, tuple(failures[:5]))

    def _kinds(
        self, prompts: Prompts, max_tokens: int
    ) -> list[Callable[[], Awaitable[tuple[int, float, str]]]]:
        plain = {"model": self._model, "prompt": prompts.tokens(), "max_tokens": max_tokens}
        several = {"model": self._model, "prompt": "37|b1>e4=", "k": 4, "max_tokens": max_tokens}
        return [
            lambda: self._ask("/v1/completions", plain),
            lambda: self._ask("/v1/candidates", several),
            lambda: self._ask("/v1/completions", {**plain, "stream": True}),
            lambda: self._ask("/v1/candidates", {**several, "stream": True}),
        ]

    async def _ask(self, route: str, body: dict[str, Any]) -> tuple[int, float, str]:
        """(status, seconds to wait before the next one, what went wrong); a stream must come to its end."""
        async with self._http.stream("POST", route, json=body) as response:
            content = await response.aread()
        if response.status_code == 429:
            return 429, float(response.headers.get("Retry-After", "1")), ""
        if response.status_code != 200:
            return response.status_code, 0.0, content[:300].decode(errors="replace")
        if body.get("stream") and not content.endswith(b"data: [DONE]\n\n"):
            return 0, 0.0, f"{route}: a stream without its end: {content[-200:]!r}"
        return 200, 0.0, ""


class PlainConnection:
    """One connection of the standard library, so that little of what is measured is the caller; a context manager."""

    def __init__(self, url: str, model: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(
            address.hostname, address.port, timeout=CLIENT_TIMEOUT_S
        )
        self._model = model

    def __enter__(self) -> PlainConnection:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def completion_seconds(self, prompt: list[int], max_tokens: int) -> float:
        """Seconds of one /v1/completions, from the first byte sent to the last one read. Raises RolloutError for
        a failure.
        """
        body = json.dumps({"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "seed": 0})
        started = time.perf_counter()
        self._connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        seconds = time.perf_counter() - started
        if response.status != 200:
            answer = content[:300].decode(errors="replace")
            raise RolloutError(f"the service answered with status {response.status}: {answer}")
        return seconds
