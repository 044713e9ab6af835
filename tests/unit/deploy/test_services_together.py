"""large/generation asks large/reward for scores of its completions."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import yaml

from polyray.config.generation import GenerationServeConfig
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.serve import RewardServeConfig
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.remote import HttpReward
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.routes import build_http_app
from polyray.serving.reward.service import RewardService
from polyray.tasks import build_task
from polyray.types import Prompt
from tests.unit.deploy.rendering import KUBERAY, render_one

TOKEN = "api-token-4711-of-this-test"


def application(service: str) -> dict[str, Any]:
    document = render_one(KUBERAY / "overlays/large" / service)
    (found,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    return {**found, "service_name": document["metadata"]["name"]}


def generation() -> GenerationServeConfig:
    return GenerationServeConfig.model_validate(application("generation")["args"])


def reward_service() -> RewardService:
    values = application("reward")
    (deployment,) = values["deployments"]
    service = RewardService(RewardServeConfig.model_validate(values["args"]).how_it_runs, None)
    service.load(ReplicaConfiguration.from_json(deployment["user_config"]))
    return service


def test_the_one_asks_the_other() -> None:
    reward, other = generation().reward, application("reward")
    assert isinstance(reward, HttpRewardSpec) and reward.token_env == "POLYRAY_API_TOKEN"
    assert reward.url == f"http://{other['service_name']}-serve-svc:8000{other['route_prefix']}"


def test_candidates_of_a_users_prompt_get_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's prompt has no reference answer: neither side may need one."""
    config, prefix = generation(), application("reward")["route_prefix"]
    assert isinstance(config.reward, HttpRewardSpec)
    app = build_http_app(reward_service(), None)
    transport = httpx.ASGITransport(app=app, root_path=prefix)
    monkeypatch.setenv("POLYRAY_API_TOKEN", TOKEN)
    reward = HttpReward(
        config.reward, build_task(config.task), diversity=config.diversity, transport=transport
    )
    prompt = Prompt("", "Three friends share 12 apples equally. How many apples does each of them get?")
    texts = (
        "There are 12 apples and three friends, so each of the friends gets 12 / 3 = 4 apples, and none of the "
        "apples is left.\n#### 4",
        "I do not know.",
        "",
    )
    (scores,) = score_groups(reward, [GroupToScore(prompt, texts, False)])
    reward.close()
    assert list(scores.errors) == [None, None, None]
    good, poor, empty = scores.rewards_G.tolist()
    assert good > 0.9 > poor > empty == 0.0


def test_both_name_the_same_task() -> None:
    (deployment,) = application("reward")["deployments"]
    assert generation().task.type == deployment["user_config"]["task"]["type"]
