"""HttpRewardClient against services that answer well, badly, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from polyray.errors import RewardError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.http_client import HttpRewardClient
from polyray.rewards.protocol import MAX_ITEMS, MAX_TEXT_CHARS

URL = "http://rewards.test/run/reward"
ITEMS = [ScoreItem("p", "a"), ScoreItem("p", "b", "r", {"n": 1}, ({"role": "user", "content": "p"},))]
GOOD = {
    "reward_model": "m",
    "version": "1",
    "scores": [
        {"score": 0.5, "class": 3, "components": {"x": 2.0}, "error": None},
        {"score": None, "class": -1, "components": {}, "error": "why"},
    ],
    "a later field": 1,
}


def client(handler: Callable[[httpx.Request], httpx.Response], token: str | None = None) -> HttpRewardClient:
    return HttpRewardClient(URL + "/", token, transport=httpx.MockTransport(handler))


def answering(answer: object, status: int = 200) -> HttpRewardClient:
    return client(lambda request: httpx.Response(status, json=answer))


def test_items_go_out_and_scores_come_back():
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=GOOD)

    scores = client(handler, token="secret").score(ITEMS)
    assert scores == [Score(0.5, 3, {"x": 2.0}), Score(None, -1, {}, "why")]
    assert str(seen[0].url) == URL + "/v1/score"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert json.loads(seen[0].content) == {
        "items": [
            {"prompt": "p", "completion": "a"},
            {
                "prompt": "p",
                "completion": "b",
                "reference": "r",
                "metadata": {"n": 1},
                "messages": [{"role": "user", "content": "p"}],
            },
        ]
    }


def test_many_items_go_in_several_requests_in_order():
    def handler(request: httpx.Request) -> httpx.Response:
        items = json.loads(request.content)["items"]
        scores = [{"score": 0, "class": int(item["completion"])} for item in items]
        return httpx.Response(200, json={"reward_model": "m", "version": "1", "scores": scores})

    items = [ScoreItem("p", str(number)) for number in range(MAX_ITEMS + 2)]
    assert [score.class_id for score in client(handler).score(items)] == list(range(MAX_ITEMS + 2))


def test_distances_and_identity():
    matrix = [[0.0, 0.25], [0.25, 0.0]]
    assert answering(GOOD | {"distances": {"default": matrix}}).distances(ITEMS, []) == matrix
    reward = answering({"reward_model": "verifier/x", "version": "7"})
    assert (reward.name, reward.version) == ("verifier/x", "7")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "no JSON object"),
        ({}, "reward_model: Field required"),
        (GOOD | {"scores": GOOD["scores"][:1]}, "1 scores for 2 items"),
        (
            GOOD | {"scores": [{"score": 1.5, "class": 0}] * 2},
            "scores.0.score: Input should be less than or equal to 1",
        ),
        (
            GOOD | {"scores": [{"score": "high", "class": 0}] * 2},
            "scores.0.score: Input should be a valid number",
        ),
        (GOOD | {"scores": [{"score": 1}] * 2}, "scores.0.class: Field required"),
    ],
)
def test_garbage_is_a_reward_error_that_names_address_and_answer(answer: object, message: str):
    with pytest.raises(RewardError, match=message) as caught:
        answering(answer).score(ITEMS)
    assert URL in str(caught.value)


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (None, "no distances"),
        ({"default": [[0.0]]}, "not 2 x 2"),
        ({"default": [[0.0, 0.1], [0.2, 0.0]]}, "not symmetric"),
        ({"default": [[0.0, 2.0], [2.0, 0.0]]}, "less than or equal to 1"),
    ],
)
def test_garbage_distances(distances: object, message: str):
    with pytest.raises(RewardError, match=message):
        answering(GOOD | {"distances": distances}).distances(ITEMS, [])


def test_not_a_number_in_json_is_garbage():
    body = json.dumps(GOOD).replace("0.5", "NaN")
    with pytest.raises(RewardError, match="finite number"):
        client(lambda request: httpx.Response(200, text=body)).score(ITEMS)


def test_a_refused_token_says_so_and_does_not_show_it():
    with pytest.raises(RewardError, match=r"status 401.*check the token") as caught:
        client(lambda request: httpx.Response(401, text="no"), token="secret").score(ITEMS)
    assert "secret" not in str(caught.value)


def test_no_service_names_the_address_and_how_to_start_one():
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(RewardError, match=f"{URL} does not answer .*refused.*jobs.serve"):
        client(handler).score(ITEMS)


def test_a_page_that_is_not_json_is_quoted():
    with pytest.raises(RewardError, match="<html>"):
        client(lambda request: httpx.Response(200, text="<html>")).score(ITEMS)


def test_a_text_over_the_limit_is_not_sent():
    with pytest.raises(
        RewardError, match=f"completion: String should have at most {MAX_TEXT_CHARS} characters"
    ):
        answering(GOOD).score([ScoreItem("p", "a" * (MAX_TEXT_CHARS + 1))])
