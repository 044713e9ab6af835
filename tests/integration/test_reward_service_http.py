"""The reward service on real Ray Serve under load and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import re
import time
from collections.abc import Iterator

import httpx
import pytest
import ray
from pydantic import SecretStr
from ray import serve

from polyray.config.reward import DiversitySpec, PythonRewardSpec
from polyray.config.serve import RewardServeConfig
from polyray.config.service import ServiceSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.orchestrator.reward_client import RewardClient
from polyray.rewards import RewardPlan
from polyray.serving.reward.app import build
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.run import (
    RewardServiceAddress,
    reload_reward_service,
    start_reward_service,
    stop_reward_service,
)
from polyray.types import Prompt

PROMPT = "37|b1>e4="
TOKEN = "integration-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SERVICE = ServiceSpec(
    port=0, num_cpus=0.5, num_replicas=2, request_timeout_s=90, max_batch_size=8, max_batch_tokens=400
)
ECHO = """
import hashlib, os
def score(items):
    seen = {"pid": os.getpid(), "batch": len(items)}
    return [{"score": one(item), "class": 0, "components": seen} for item in items]
def one(item):
    digest = hashlib.sha256((item["prompt"] + "|" + item["completion"]).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
"""
SLOW = """
import time
def score(items):
    time.sleep(1.5)
    return [{"score": 0.5, "class": 0}] * len(items)
"""


def plan(source: str) -> RewardPlan:
    spec = PythonRewardSpec(path="mine.py:score")
    return RewardPlan(spec, HiddenTrapGridSpec(), DiversitySpec(), {spec.path: source})


def models(echo: str, revision: str) -> ReplicaConfiguration:
    return ReplicaConfiguration({"echo": plan(echo), "slow": plan(SLOW)}, revision=revision)


def echoed(prompt: str, completion: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{prompt}|{completion}".encode()).digest()[:6], "big") / 2**48


@pytest.fixture(scope="module")
def service(ray_session: object) -> Iterator[RewardServiceAddress]:
    yield start_reward_service("echo-test", models(ECHO, "1"), SecretStr(TOKEN), spec=SERVICE)
    stop_reward_service("echo-test")


def client(address: RewardServiceAddress) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address.url, headers=HEADERS, timeout=60)


async def post(http: httpx.AsyncClient, texts: list[str], **more) -> dict:
    items = [{"prompt": PROMPT, "completion": text} for text in texts]
    answer = await http.post("/v1/score", json={"items": items, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_concurrent_callers_over_http_and_handle_get_their_own_scores(service: RewardServiceAddress):
    handle = RewardClient(service.app_name, SERVICE)
    sizes: set[float] = set()

    async def over_http(http: httpx.AsyncClient, number: int) -> None:
        texts = [f"http {number} {at} " + "x" * (number % 60) for at in range(1 + number % 6)]
        answer = await post(http, texts)
        assert [score["score"] for score in answer["scores"]] == [echoed(PROMPT, text) for text in texts]
        sizes.update(score["components"]["batch"] for score in answer["scores"])

    async def over_handle(number: int) -> None:
        prompt, texts = f"{number + 1}|b1>e4=", [f"handle {number} {at}" for at in range(1 + number % 8)]
        group = await handle.score_group(Prompt(str(number), prompt), texts)
        assert group.errors == (None,) * len(texts)
        assert group.rewards_G.tolist() == [echoed(prompt, text) for text in texts]

    async with client(service) as http:
        calls = [over_http(http, number) for number in range(120)] + [over_handle(at) for at in range(40)]
        await asyncio.gather(*calls)
    assert max(sizes) > 6  # batches did hold several callers


async def test_reload_under_load_loses_no_request_and_changes_versions_once_per_replica(
    service: RewardServiceAddress,
):
    answers: list[tuple[float, str]] = []
    stop = asyncio.Event()

    async def ask_all_the_time(http: httpx.AsyncClient) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            answer = await post(http, [f"{id(stop)} {number}"])
            (score,) = answer["scores"]
            assert score["score"] == echoed(PROMPT, f"{id(stop)} {number}")
            answers.append((score["components"]["pid"], answer["version"]))

    slow_to_load = "import time\ntime.sleep(0.5)\n" + ECHO
    second = models(slow_to_load, "2")

    def reload(new: ReplicaConfiguration, served: ReplicaConfiguration) -> str | None:
        return reload_reward_service("echo-test", new, served, SecretStr(TOKEN), SERVICE)

    async with client(service) as http:
        asking = [asyncio.create_task(ask_all_the_time(http)) for _ in range(6)]
        await asyncio.sleep(0.5)
        before = len(answers)
        assert await asyncio.to_thread(reload, second, models(ECHO, "1")) is None
        loaded = len(answers)
        refused = await asyncio.to_thread(reload, models("import not_there\n" + ECHO, "3"), second)
        await asyncio.sleep(0.3)
        stop.set()
        await asyncio.gather(*asking)
        info = (await http.get("/v1/info")).json()
        assert await asyncio.to_thread(reload, models(slow_to_load, "4"), second) is None
    assert refused is not None and "No module named 'not_there'" in refused
    assert info["revision"] == "2"
    assert before < loaded < len(answers)  # answered before, during and after
    versions = list(dict.fromkeys(version for _, version in answers))
    assert len(versions) == 2 and info["version"] == versions[1]
    replicas = {pid for pid, _ in answers}
    assert len(replicas) == 2  # no replica was restarted
    for replica in replicas:
        seen = [version for pid, version in answers if pid == replica]
        # 6 callers at most write their answers down a little late
        assert sum(first != second for first, second in itertools.pairwise(seen)) <= 11
        assert (seen[0], seen[-1]) == (versions[0], versions[1])


def scored_requests(text: str) -> float:
    """Number of requests scored by the service of this module alone."""
    requests = re.findall(r"^ray_polyray_reward_requests\S*\{(.*)\} (\S+)$", text, re.MULTILINE)
    own = ('route="/v1/score"', 'status="200"', 'model="echo"', 'application="echo-test-reward"')
    return sum(float(value) for labels, value in requests if all(label in labels for label in own))


def test_metrics_reach_rays_endpoint(service: RewardServiceAddress):
    (node, *_) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    names = (
        "requests",
        "items",
        "batch_items_bucket",
        "batch_tokens_bucket",
        "score_seconds_bucket",
        "queued",
    )
    deadline, text = time.monotonic() + 60, ""
    with httpx.Client(timeout=10, headers=HEADERS) as http:
        while time.monotonic() < deadline and scored_requests(text) < 120:
            http.post(
                f"{service.url}/v1/score", json={"items": [{"prompt": PROMPT, "completion": "metrics"}]}
            )
            time.sleep(1.0)
            with contextlib.suppress(httpx.HTTPError):
                text = http.get(url).text
    assert scored_requests(text) >= 120
    for name in names:
        assert f"ray_polyray_reward_{name}" in text, name


async def test_accepted_requests_are_answered_when_the_service_stops(ray_session: object):
    address = start_reward_service("drain-test", models(ECHO, "1"), spec=SERVICE)
    async with client(address) as http:
        await post(http, ["warm"])
        slow = [asyncio.create_task(post(http, [f"{at}"], model="slow")) for at in range(4)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stop_reward_service, "drain-test")
        answers = await asyncio.gather(*slow)
    assert [answer["scores"][0]["score"] for answer in answers] == [0.5] * 4


def test_serve_runs_the_builder(service: RewardServiceAddress):
    config = RewardServeConfig.model_validate(
        {
            "models": {"first": {"type": "verifier"}, "second": {"type": "verifier"}},
            "reward": {"service": {"num_cpus": 0.5}},
            "revision": "built",
        }
    )
    serve.run(build(config), name="built", route_prefix="/built")
    try:
        base = service.url.removesuffix("/echo-test/reward")
        info = httpx.get(f"{base}/built/v1/info").json()
        assert info["revision"] == "built" and [model["id"] for model in info["models"]] == [
            "first",
            "second",
        ]
        page = httpx.get(f"{base}/built/docs")
        assert page.status_code == 200 and "'/built/openapi.json'" in page.text
        assert httpx.get(f"{base}/built/openapi.json").json()["info"]["title"] == "polyray reward service"
        assert httpx.get(f"{base}/built/readyz").status_code == 200
    finally:
        serve.delete("built")
