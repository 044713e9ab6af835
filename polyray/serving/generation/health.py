"""Health of the engine: a canary while it is idle; its progress while it is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from polyray.errors import RolloutError
from polyray.serving.generation.text_engine import TextEngine
from polyray.types import Sampling, TextRequest


class EngineHealth:
    """Asked by Serve, which replaces a replica that is not well, and by /readyz."""

    def __init__(
        self,
        engine: TextEngine,
        canary_tokens: tuple[int, ...],
        run: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`canary_tokens` are a prompt for the adapter of `run`, which is always served."""
        self._engine = engine
        self._canary = TextRequest(canary_tokens, Sampling(max_tokens=1, temperature=0.0), 0, run)
        self._timeout_s = timeout_s
        self._clock = clock
        self._seen = (engine.progress, clock())

    async def check(self) -> None:
        """Raises RolloutError where the engine is dead, hangs, or does not answer the canary in time.

        A canary would wait behind a full queue, so a busy engine is asked for its progress instead.
        """
        if self._engine.failure is not None:
            raise RolloutError(f"the engine is dead: {self._engine.failure}")
        progress, now = self._engine.progress, self._clock()
        if progress != self._seen[0] or not self._engine.in_flight:
            self._seen = (progress, now)
        if now - self._seen[1] > self._timeout_s:
            raise RolloutError(
                f"the engine has {self._engine.in_flight} completions and has not got on for "
                f"{now - self._seen[1]:.0f} s; the limit is {self._timeout_s:g} s"
            )
        if not self._engine.in_flight:
            await self._ask_canary()

    async def _ask_canary(self) -> None:
        tokens = 0
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                aclosing(self._engine.generate(self._canary)) as deltas,
            ):
                async for delta in deltas:
                    tokens += len(delta.token_ids)
        except TimeoutError:
            raise RolloutError(f"the canary was not answered within {self._timeout_s:g} s") from None
        if not tokens:
            raise RolloutError("the canary was answered without a token")
