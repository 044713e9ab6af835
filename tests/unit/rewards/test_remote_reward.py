"""HttpReward: a service's scores with this run's classes and distances, in both protocols."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from polyray.config.loader import build_config
from polyray.config.remote_reward import HttpRewardSpec
from polyray.errors import ConfigError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.remote import HttpReward
from polyray.types import WRONG_CLASS, Prompt
from tests.unit.rewards.fake_task import FakeTask, ranks_by_length

ITEMS = [ScoreItem("p", text) for text in ("ab", "bad", "alien")]
OPENRLHF: dict[str, Any] = {"protocol": "openrlhf", "raw_range": (-2.0, 6.0)}


def class_of(completion: str) -> int:
    if completion == "alien":
        raise ValueError("no such completion")
    return len(completion)


def reward(
    answer: Callable[[Any], object] | str, seen: list[httpx.Request] | None = None, **settings: Any
) -> HttpReward:
    """A reward whose service gives `answer`: text, or a function of the request's body."""

    def handler(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        text = answer if isinstance(answer, str) else json.dumps(answer(json.loads(request.content)))
        return httpx.Response(200, text=text)

    spec = build_config(HttpRewardSpec, {"url": "http://r.test/x", **settings})
    task = FakeTask(class_of, partition=ranks_by_length)
    return HttpReward(spec, task, transport=httpx.MockTransport(handler))


def service(body: dict[str, Any]) -> object:
    scores = [
        {"score": 0.5, "class": WRONG_CLASS if item["completion"] == "bad" else 99, "components": {"x": 1}}
        for item in body["items"]
    ]
    return {"reward_model": "m", "version": "1", "scores": scores}


def test_remote_reward_classes_and_distances_come_from_the_task() -> None:
    good, wrong, alien = reward(service).score(ITEMS)
    assert good == Score(0.5, 2, {"x": 1.0}) and wrong == Score(0.5, WRONG_CLASS, {"x": 1.0})
    assert alien.score is None and "ValueError" in str(alien.error)
    request = GroupToScore(Prompt("1", "p"), ("abcd", "ab", "bad"), want_distances=True)
    (group,) = score_groups(reward(service), [request])
    assert group.classes_G.tolist() == [1, 0, WRONG_CLASS]
    assert group.distances_GG is not None and group.distances_GG[0].tolist() == [0, 0.5, 0.5]


def test_remote_reward_classes_come_from_the_service_on_request() -> None:
    own = reward(service, classes="service")
    assert [score.class_id for score in own.score(ITEMS)] == [99, WRONG_CLASS, 99]
    (group,) = score_groups(own, [GroupToScore(Prompt("1", "p"), ("abcd", "ab"))])
    assert group.classes_G.tolist() == [99, 99]


def test_remote_reward_failed_service_leaves_items_unscored_never_zero() -> None:
    scores = reward("{}").score(ITEMS)
    assert [(score.score, score.class_id) for score in scores] == [(None, WRONG_CLASS)] * 3
    assert all("list of scores" in str(score.error) for score in scores)


def test_openrlhf_gets_its_three_lists_and_rewards_are_mapped() -> None:
    seen: list[httpx.Request] = []
    items = [ScoreItem("Why? ", "So.", "42"), ScoreItem("Why? ", "No.")]
    answer = {"rewards": [6.0, [0.0]], "scores": [1, 0], "extra_logs": {"len": [3, 4], "other": 7}}
    first, second = reward(lambda body: answer, seen, **OPENRLHF).score(items)
    assert str(seen[0].url) == "http://r.test/x"
    assert json.loads(seen[0].content) == {
        "query": ["Why? So.", "Why? No."],
        "prompts": ["Why? ", "Why? "],
        "labels": ["42", ""],
    }
    assert first == Score(1.0, 3, {"len": 3.0, "scores": 1.0, "raw": 6.0, "clipped": 0.0})
    assert second == Score(0.25, 3, {"len": 4.0, "scores": 0.0, "raw": 0.0, "clipped": 0.0})
    query = {"query": "A: {completion} Q: {prompt}."}
    reward('{"rewards": [0]}', seen, **OPENRLHF, **query).score([ScoreItem("{completion}", "{prompt}")])
    assert json.loads(seen[1].content)["query"] == ["A: {prompt} Q: {completion}."]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        *((raw, "finite") for raw in ("null", '"1"', "true", "[1, 2]", "[]", "1e400")),
        ("6.5", r"\b6\.5\b.*raw_range=\[-2, 6\]"),
    ],
)
def test_openrlhf_garbage_for_one_item_is_unscored(raw: str, message: str) -> None:
    bad, good = reward(f'{{"rewards": [{raw}, 2.0]}}', **OPENRLHF).score(ITEMS[:2])
    assert bad.score is None and re.search(message, str(bad.error))
    assert good.score == 0.5


def test_openrlhf_reward_outside_its_range_is_clipped_on_request() -> None:
    low, high = reward('{"rewards": [-9, 6.5]}', **OPENRLHF, outside="clip").score(ITEMS[:2])
    assert (low.score, high.score) == (0.0, 1.0)
    assert low.components == {"raw": -9.0, "clipped": 1.0}


def test_remote_reward_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="MY_TOKEN"):
        reward(service, token_env="MY_TOKEN")
    monkeypatch.setenv("MY_TOKEN", "secret")
    seen: list[httpx.Request] = []
    reward(service, seen, token_env="MY_TOKEN").score(ITEMS[:1])
    assert seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://x"}, "url="),
        ({"url": "http://me:pw@x"}, "password"),
        ({"token_env": "not a name"}, "environment variable"),
        ({"protocol": "openrlhf"}, "raw_range"),
        ({"protocol": "openrlhf", "raw_range": [1, 1]}, "raw_range"),
        ({"protocol": "openrlhf", "raw_range": [0, 1], "model": "m"}, "classes"),
        ({"protocol": "openrlhf", "raw_range": [0, 1], "query": "{prompt}"}, "query"),
        ({"raw_range": [0, 1]}, "[0, 1]"),
    ],
)
def test_remote_reward_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(HttpRewardSpec, {"url": "http://x", **settings})
    assert message in str(caught.value) and "not a name" not in str(caught.value)
