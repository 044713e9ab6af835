"""The reward service on real Ray Serve by handle and HTTP."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from pydantic import SecretStr
from ray import serve
from ray.util import list_named_actors

from polyray.config.reward import DiversitySpec, PythonRewardSpec, VerifierRewardSpec
from polyray.config.service import ServiceSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ResourceError, RewardError
from polyray.orchestrator.reward_client import RewardClient
from polyray.rewards import RewardPlan
from polyray.rewards.base import GroupScores, ScoreItem
from polyray.rewards.client import RewardServiceClient
from polyray.serving.reward.run import RewardServiceAddress, start_reward_service, stop_reward_service
from polyray.tasks import build_task
from polyray.types import Prompt

TASK = HiddenTrapGridSpec(trap_probability=0.3)
DISTANCES = DiversitySpec(source="task_distance")
TOKEN = "integration-token"
SERVICE = ServiceSpec(port=0, num_cpus=0.5, request_timeout_s=30, batch_wait_timeout_s=0.1)
TEXTS = ["RRRUUU", "UUURRR", "RURURU", "RRR", "?", "RRRUUU"]

USER_REWARD = """
def score(items):
    return [one(item, len(items)) for item in items]

def one(item, num_items):
    if item["completion"] == "raise":
        raise ValueError("this one")
    if item["completion"] == "high":
        return 7.0
    return {"score": 0.5, "class": item["completion"], "components": {"num_items": num_items}}
"""


@pytest.fixture(scope="module")
def verifier(ray_session: object) -> Iterator[RewardServiceAddress]:
    yield start_reward_service(
        "verifier-test",
        RewardPlan(VerifierRewardSpec(service=SERVICE), TASK, DISTANCES, {}),
        SecretStr(TOKEN),
    )
    stop_reward_service("verifier-test")


@pytest.fixture(scope="module")
def users(ray_session: object) -> Iterator[RewardServiceAddress]:
    yield start_users(USER_REWARD)
    stop_reward_service("users-test")


def start_users(source: str) -> RewardServiceAddress:
    spec = PythonRewardSpec(path="mine.py:score", service=SERVICE)
    return start_reward_service("users-test", RewardPlan(spec, TASK, DiversitySpec(), {spec.path: source}))


async def score(
    address: RewardServiceAddress, prompts: list[Prompt], texts: list[str], want_distances: bool = False
) -> list[GroupScores]:
    client = RewardClient(address.app_name, SERVICE)
    return await asyncio.gather(*(client.score_group(prompt, texts, want_distances) for prompt in prompts))


async def test_handle_and_http_agree_with_the_task(verifier: RewardServiceAddress):
    task = build_task(TASK)
    prompts = [Prompt(str(board), f"{board}|b1>e4=") for board in range(10, 26)]
    groups = await score(verifier, prompts, TEXTS, want_distances=True)
    rewards = [[task.reward(prompt, text) for text in TEXTS] for prompt in prompts]
    classes = [[task.completion_class(prompt, text) for text in TEXTS] for prompt in prompts]
    assert 0 < np.mean(rewards) < 1
    assert [group.rewards_G.tolist() for group in groups] == rewards
    assert [group.classes_G.tolist() for group in groups] == classes
    with RewardServiceClient(verifier.url, token=TOKEN) as client:
        assert client.info()["reward_model"] == "verifier/hidden_trap_grid"
        for prompt, group in zip(prompts[:4], groups, strict=False):
            items = [ScoreItem.of(prompt, text) for text in TEXTS]
            scores = client.score(items).scores
            assert [item.score for item in scores] == group.rewards_G.tolist()
            assert [item.class_id for item in scores] == group.classes_G.tolist()
            np.testing.assert_array_equal(client.distances(items), group.distances_GG)


def test_token_guards_every_route_but_health(verifier: RewardServiceAddress):
    assert httpx.get(f"{verifier.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{verifier.url}/readyz").status_code == 200
    answer = httpx.post(f"{verifier.url}/v1/score", json={"items": []})
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.post(f"{verifier.url}/v1/score", json={"items": []}, headers=headers).status_code == 400
    assert httpx.get(f"{verifier.url}/nope", headers=headers).json()["error"]["code"] == "not_found"


async def test_a_killed_replica_is_replaced_and_the_group_still_scored(verifier: RewardServiceAddress):
    prompt = Prompt("10", "10|b1>e4=")
    (before,) = await score(verifier, [prompt], TEXTS)
    (replica,) = replicas(verifier.app_name)
    ray.kill(ray.get_actor(replica, namespace="serve"))
    (after,) = await score(verifier, [prompt], TEXTS)
    assert after.errors == (None,) * len(TEXTS)
    np.testing.assert_array_equal(after.rewards_G, before.rewards_G)
    assert replicas(verifier.app_name) != [replica]


def replicas(app_name: str) -> list[str]:
    actors: list[Any] = list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["name"].startswith(f"SERVE_REPLICA::{app_name}#")]


async def test_a_users_function_and_its_garbage(users: RewardServiceAddress):
    texts = ["fine", "raise", "high", "fine", "other"]
    (group,) = await score(users, [Prompt("1", "p")], texts, want_distances=True)
    np.testing.assert_array_equal(group.rewards_G, [0.5, np.nan, np.nan, 0.5, 0.5])
    assert group.classes_G[0] == group.classes_G[3] != group.classes_G[4]
    assert group.classes_G[1] == group.classes_G[2] == -1
    assert group.errors[0] is None
    assert 'mine.py", line 7, in one' in str(group.errors[1])
    assert "ValueError: this one" in str(group.errors[1])
    assert re.search(r"7\.0.*\[0, 1\]", str(group.errors[2]))
    assert group.distances_GG is not None
    np.testing.assert_array_equal(group.distances_GG[0], [0, 0, 0, 0, 1])


async def test_groups_of_several_callers_are_scored_in_one_call(users: RewardServiceAddress):
    handle = serve.get_app_handle(users.app_name)
    await handle.score_group.remote(Prompt("1", "p"), ["warm up"])
    calls = [handle.score_group.remote(Prompt("1", "p"), ["a", "b"]) for _ in range(3)]
    groups = await asyncio.gather(*calls)
    assert [group.components["num_items"] for group in groups] == [(6.0, 6.0)] * 3


async def test_second_start_replaces_the_service_of_the_run(users: RewardServiceAddress):
    address = start_users("def score(items):\n    return [0.25] * len(items)\n")
    assert address == users
    (group,) = await score(users, [Prompt("1", "37|b1>e4=")], ["raise"])
    assert group.rewards_G.tolist() == [0.25]


@pytest.mark.slow  # Serve tries three times
def test_code_that_cannot_run_on_the_workers_ends_the_start(ray_session: object):
    spec = PythonRewardSpec(path="mine.py:score", service=SERVICE)
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"broken-test-reward .*'not_there'"):
        start_reward_service(
            "broken-test",
            RewardPlan(spec, TASK, DISTANCES, {spec.path: "import not_there\ndef score(items): ...\n"}),
        )
    assert time.monotonic() - started < 60
    assert "broken-test-reward" not in serve.status().applications


def test_a_service_that_cannot_be_placed_ends_the_start(verifier: RewardServiceAddress):
    spec = VerifierRewardSpec(service=SERVICE.model_copy(update={"num_cpus": 1000.0}))
    with pytest.raises(ResourceError, match=r"1 s.* 1 x 1000 CPUs.*ray\.num_cpus"):
        start_reward_service("huge-test", RewardPlan(spec, TASK, DISTANCES, {}), start_timeout_s=1)


def test_another_port_than_the_clusters_is_refused(verifier: RewardServiceAddress):
    spec = VerifierRewardSpec(service=SERVICE.model_copy(update={"port": 1}))
    with pytest.raises(ResourceError, match=r"reward\.service\.port=1, .*listens on"):
        start_reward_service("port-test", RewardPlan(spec, TASK, DISTANCES, {}))


async def test_without_a_service_groups_are_unscored(ray_session: object):
    client = RewardClient("nobody-reward", ServiceSpec(max_attempts=1))
    scores = await client.score_group(Prompt("1", "p"), ["a"])
    assert np.isnan(scores.rewards_G).all() and "no scores from nobody-reward" in str(scores.errors[0])
    stop_reward_service("nobody")
