"""A reward service in this process: two small models and ways to ask it."""

from __future__ import annotations

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from polyray.config.reward import DiversitySpec, PythonRewardSpec, VerifierRewardSpec
from polyray.config.service import ServiceSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.rewards import RewardPlan
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.routes import build_http_app
from polyray.serving.reward.service import RewardService

TASK = HiddenTrapGridSpec(trap_probability=0.0)
PROMPT = "37|b1>e4="
DIVERSITY = DiversitySpec(source="task_distance")


def constant(score: float, before: str = "", inside: str = "") -> str:
    """A user's reward function: always `score`, in one class."""
    answer = f'return [{{"score": {score}, "class": 0}} for _ in items]'
    return f"{before}\ndef score(items):\n    {inside}\n    {answer}\n"


HALF = constant(0.5)
WAITING = constant(0.25, before="import builtins", inside="builtins.reward_gate.wait(5)")
"""Waits for the fixture `gate`."""


def verifier_plan() -> RewardPlan:
    return RewardPlan(VerifierRewardSpec(), TASK, DIVERSITY, {})


def python_plan(source: str, **changes) -> RewardPlan:
    spec = PythonRewardSpec(path="mine.py:score", **changes)
    return RewardPlan(spec, TASK, DIVERSITY, {spec.path: source})


def spec_of(**changes) -> ServiceSpec:
    return ServiceSpec(**changes)


def service_of(
    plans: dict[str, RewardPlan], token: str | None = None, revision: str = "", **spec
) -> RewardService:
    service = RewardService(spec_of(**spec), None if token is None else SecretStr(token))
    service.load(ReplicaConfiguration(plans, revision=revision))
    return service


def two_models(**spec) -> RewardService:
    return service_of({"verifier": verifier_plan(), "half": python_plan(HALF)}, **spec)


def app_of(service: RewardService, token: str | None = None) -> FastAPI:
    return build_http_app(service, None if token is None else SecretStr(token))


async def ask(app: FastAPI, method: str, path: str, root_path: str = "", **options) -> httpx.Response:
    transport = httpx.ASGITransport(app=app, root_path=root_path, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


def item(completion: str, prompt: str = PROMPT, **more) -> dict:
    return {"prompt": prompt, "completion": completion, **more}
