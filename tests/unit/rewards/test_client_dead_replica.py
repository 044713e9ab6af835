"""A 500 of Serve's proxy means that a replica died with the request, one of the service is an answer."""

from __future__ import annotations

import httpx
import pytest

from polyray.config.remote_reward import ClientSpec
from polyray.rewards.base import ScoreItem
from polyray.rewards.client import AsyncRewardServiceClient

SCORED = {"reward_model": "m", "version": "1", "scores": [{"score": 0.5, "class": 0}]}


@pytest.mark.parametrize(
    ("first", "tries", "score"),
    [
        (httpx.Response(500, text="Internal Server Error"), 2, 0.5),
        (httpx.Response(500, json={"error": {"message": "a defect"}}), 1, None),
    ],
)
async def test_only_the_proxys_500_is_tried_again(first: httpx.Response, tries: int, score: float | None):
    answers = [first, httpx.Response(200, json=SCORED)]

    async def no_pause(seconds: float) -> None:
        return

    transport = httpx.MockTransport(lambda request: answers.pop(0))
    spec = ClientSpec(max_attempts=3)
    async with AsyncRewardServiceClient("http://h", spec, transport=transport, sleep=no_pause) as client:
        scored = await client.score([ScoreItem("p", "c")])
    assert [one.score for one in scored.scores] == [score]
    assert len(answers) == 2 - tries
