"""A reward service somewhere on the network, as a Reward. Synchronous, one connection pool, no retries.

For evaluation, scripts and other programs; the training loop goes through actors/reward_client.py instead.
Every answer is checked: a service that answers garbage is a RewardError with address, what came, and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
from pydantic import ValidationError

from polyray.errors import RewardError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.protocol import (
    DEFAULT_GROUP,
    MAX_ITEMS,
    ScoreRequest,
    ScoreResponse,
    WireItem,
    check_matrix,
)

_EXCERPT_CHARS = 300
_WRONG_ADDRESS = "is this the address of a polyray reward service?"


class HttpRewardClient:
    """Speaks POST /v1/score; use it as a context manager, or close it."""

    inline = False

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` is the service's base, e.g. http://127.0.0.1:8000/my-run/reward; `transport` is for tests."""
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(headers=headers, timeout=timeout_s, transport=transport)
        self._info: tuple[str, str] | None = None

    def __enter__(self) -> HttpRewardClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    @property
    def name(self) -> str:
        """The service's reward model, asked once."""
        return self._identity()[0]

    @property
    def version(self) -> str:
        """The version of the service's reward model when it was first asked."""
        return self._identity()[1]

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; more than MAX_ITEMS go in several requests. Raises RewardError."""
        return [
            score.as_score()
            for start in range(0, len(items), MAX_ITEMS)
            for score in self._post(items[start : start + MAX_ITEMS], distances=False).scores
        ]

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """[G][G] distances of one group, as the service computes them (it scores the items itself)."""
        if not items:
            return []
        matrix = (self._post(items, distances=True).distances or {}).get(DEFAULT_GROUP)
        if matrix is None:
            raise self._garbage("no distances", 'use a service that answers "distances": true')
        try:
            check_matrix(matrix, len(items))
        except RewardError as error:
            raise self._garbage(str(error), "correct it") from None
        return matrix

    def _post(self, items: Sequence[ScoreItem], distances: bool) -> ScoreResponse:
        try:
            request = ScoreRequest(items=tuple(WireItem.of(item) for item in items), distances=distances)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RewardError(f"these items cannot be sent to {self.url}: {where}: {first['msg']}") from None
        answer = self._ask("POST", "/v1/score", request.model_dump(mode="json", exclude_defaults=True))
        try:
            response = ScoreResponse.model_validate(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "answer"
            raise self._garbage(f"{where}: {first['msg']}", _WRONG_ADDRESS) from None
        if len(response.scores) != len(items):
            raise self._garbage(f"{len(response.scores)} scores for {len(items)} items", "correct it")
        return response

    def _identity(self) -> tuple[str, str]:
        if self._info is None:
            answer = self._ask("GET", "/v1/info", None)
            name, version = answer.get("reward_model"), answer.get("version")
            if not isinstance(name, str) or not isinstance(version, str):
                raise self._garbage(f"{str(answer)[:_EXCERPT_CHARS]}", _WRONG_ADDRESS)
            self._info = (name, version)
        return self._info

    def _ask(self, method: str, route: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            response = self._client.request(method, self.url + route, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RewardError(
                f"the reward service at {self.url} does not answer ({type(error).__name__}: {error}); "
                "check the address and that it runs: python -m jobs.serve configs/serve/reward.yaml"
            ) from None
        if response.status_code != httpx.codes.OK:
            fix = "check the token" if response.status_code == httpx.codes.UNAUTHORIZED else "see its message"
            raise self._garbage(f"status {response.status_code}: {response.text[:_EXCERPT_CHARS]}", fix)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._garbage(f"no JSON object: {response.text[:_EXCERPT_CHARS]!r}", _WRONG_ADDRESS)
        return answer

    def _garbage(self, what: str, fix: str) -> RewardError:
        return RewardError(f"the reward service at {self.url} answered {what}; {fix}")
