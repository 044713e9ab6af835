"""A text engine that tests block, fail or give wrong weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import numpy as np

from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import PolicyUpdate
from polyray.types import TextDelta, TextRequest
from polyray.weight_sync.proof import SyncAck


class ScriptedTextEngine:
    """Answers `tokens` times "x"; `hold` blocks, the lies change the probes."""

    def __init__(self, tokens: int = 3) -> None:
        self.tokens = tokens
        self.hold: asyncio.Event | None = None
        self.lie = self.magnified_lie = 0.0
        self.refuse: set[str] = set()
        """sha256 of adapters that are not loaded."""
        self.error: Exception | None = None
        """Raised instead of the second token."""
        self.served: dict[str, PolicyUpdate] = {}
        self.loads: list[str] = []
        """Names of versions, in the order in which they were loaded."""
        self.closed: list[TextRequest] = []
        """Given up by their callers."""
        self.in_flight = 0
        self.progress = 0
        self.failure: BaseException | None = None

    async def start(self) -> None:
        return

    async def generate(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        if request.run not in self.served:
            raise RolloutError(f"no policy version of {request.run}")
        self.in_flight += 1
        count = min(self.tokens, request.sampling.max_tokens)
        finished = False
        try:
            for index in range(count):
                if self.hold is not None:
                    await self.hold.wait()
                await asyncio.sleep(0)
                if self.error is not None and index == 1:
                    raise self.error
                self.progress += 1
                finished = index == count - 1
                yield TextDelta("x", (7,), (-0.5,), (), "length" if finished else None)
        finally:
            self.in_flight -= 1
            if not finished:
                self.closed.append(request)

    async def load(self, payload: PolicyUpdate) -> SyncAck:
        if payload.policy.sha256 in self.refuse:
            raise WeightSyncError(f"refused {payload.policy.name}")
        self.loads.append(payload.policy.name)
        self.served[payload.policy.run] = payload
        larger = payload.magnified()
        return SyncAck(
            "texts",
            payload.policy.sha256,
            payload.probe.logprobs + np.float32(self.lie),
            0.0,
            0.0,
            None if larger is None else larger.probe.logprobs + np.float32(self.magnified_lie),
        )

    def forget(self, run: str) -> None:
        self.served.pop(run, None)

    def held(self) -> dict[str, int]:
        return {payload.policy.name: 0 for payload in self.served.values()}

    async def close(self) -> None:
        return
