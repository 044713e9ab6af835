"""RewardClient: what it sends together, what it tries again, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

from polyray import retry
from polyray.config.remote_reward import ClientSpec, HttpRewardSpec
from polyray.config.reward import DiversitySpec, VerifierRewardSpec
from polyray.config.service import ServiceSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import RewardError
from polyray.orchestrator import reward_client
from polyray.orchestrator.reward_client import RemoteCall, RewardClient
from polyray.rewards import RewardPlan, plan_reward
from polyray.rewards.base import GroupScores
from polyray.rewards.groups import GroupToScore
from polyray.types import Prompt


def answer(request: GroupToScore) -> GroupScores:
    """Rewards a text by its length in tenths."""
    rewards_G = np.array([len(text) / 10 for text in request.texts])
    size = len(request.texts)
    distances_GG = np.zeros((size, size)) if request.want_distances else None
    return GroupScores(rewards_G, np.zeros(size, np.int64), distances_GG, {}, (None,) * size)


class Service:
    """Stands for the Serve handle: raises what it is told to, then answers."""

    def __init__(self, *failures: Exception, delay_s: float = 0.0, gate: asyncio.Event | None = None) -> None:
        self.failures = list(failures)
        self.delay_s = delay_s
        self.gate = gate or asyncio.Event()
        if gate is None:
            self.gate.set()
        self.sizes: list[int] = []

    async def __call__(self, requests: list[GroupToScore]) -> object:
        self.sizes.append(len(requests))
        await asyncio.sleep(self.delay_s)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return [answer(request) for request in requests]


async def score(call, num_groups: int = 1, **spec) -> list[GroupScores]:
    client = RewardClient("run-reward", ServiceSpec(**spec), call)
    prompt = Prompt("1", "p")
    return await asyncio.gather(*(client.score_group(prompt, ["a" * at, "b"]) for at in range(num_groups)))


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.001)


async def test_groups_of_one_moment_travel_together_and_come_back_apart():
    service = Service()
    groups = await score(service, num_groups=5)
    assert service.sizes == [5]
    assert [group.rewards_G.tolist() for group in groups] == [[at / 10, 0.1] for at in range(5)]


async def test_groups_are_spread_over_replicas_and_batches():
    service = Service()
    await score(service, num_groups=5, num_replicas=2)
    assert service.sizes == [3, 2]
    small = Service()
    await score(small, num_groups=5, max_batch_size=2)
    assert small.sizes == [2, 2, 1]


async def test_while_calls_are_under_way_groups_gather():
    service = Service(gate=asyncio.Event())
    client = RewardClient("run-reward", ServiceSpec(), service)
    tasks = []
    for _ in range(6):
        tasks.append(asyncio.create_task(client.score_group(Prompt("1", "p"), ["a"])))
        await asyncio.sleep(0.002)
    service.gate.set()
    await asyncio.gather(*tasks)
    assert service.sizes == [1, 1, 4]  # two in flight, the rest in one call after them


async def test_transient_failure_is_retried():
    service = Service(BackPressureError(3, 2), TimeoutError(), BackPressureError(3, 2))
    (group,) = await score(service)
    assert service.sizes == [1, 1, 1, 1]
    assert group.errors == (None, None)


async def test_reason_of_a_retry_is_returned_once():
    service = Service(TimeoutError(), BackPressureError(3, 2))
    client = RewardClient("run-reward", ServiceSpec(request_timeout_s=7), service)
    assert client.take_trouble() is None
    await client.score_group(Prompt("1", "p"), ["a"])
    assert "BackPressureError" in str(client.take_trouble())
    await client.score_group(Prompt("1", "p"), ["a"])
    assert client.take_trouble() is None


async def test_after_max_attempts_the_group_is_unscored_with_the_reason():
    service = Service(*[BackPressureError(3, 2)] * 9)
    (group,) = await score(service, max_attempts=3)
    assert service.sizes == [1, 1, 1]
    assert np.isnan(group.rewards_G).tolist() == [True, True] and group.classes_G.tolist() == [-1, -1]
    reason = str(group.errors[0])
    assert re.search(r"run-reward .*\b3 tries.*: BackPressureError: Request dropped", reason)


async def test_a_service_that_does_not_answer_meets_the_deadline():
    (group,) = await score(Service(delay_s=30), request_timeout_s=0.02, max_attempts=2)
    assert "request_timeout_s=0.02" in str(group.errors[0])


async def test_a_defect_of_the_service_is_not_tried_again():
    service = Service(RayTaskError("score_groups", "traceback", KeyError("boom")))
    (group,) = await score(service)
    assert service.sizes == [1]
    first, second = group.errors
    assert "KeyError('boom')" in str(first) and second == first


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (None, r"\bNoneType\b.*\b2\b"),
        ([], r"\b0 groups.*\b2\b"),
        ([1, 2], r"\bint\b.*GroupScores"),
    ],
)
async def test_garbage_is_unscored_and_not_tried_again(garbage: object, message: str):
    calls = 0

    async def call(requests: list[GroupToScore]) -> object:
        nonlocal calls
        calls += 1
        return garbage

    groups = await score(call, num_groups=2)
    assert calls == 1
    assert all(
        re.search(message, str(group.errors[0])) and np.isnan(group.rewards_G).all() for group in groups
    )


async def test_garbage_for_one_group_leaves_the_others_alone():
    async def call(requests: list[GroupToScore]) -> object:
        good, bad = (answer(request) for request in requests)
        bad.rewards_G[0] = 7.0
        return [good, bad]

    good, bad = await score(call, num_groups=2)
    assert good.errors == (None, None)
    assert re.search(r"rewards_G .*\b7\.0.*\[0, 1\]", str(bad.errors[0]))


async def test_a_caller_that_gives_up_does_not_disturb_the_others():
    client = RewardClient("run-reward", ServiceSpec(), Service(delay_s=0.05))
    first = asyncio.create_task(client.score_group(Prompt("1", "p"), ["a"]))
    second = asyncio.create_task(client.score_group(Prompt("1", "p"), ["aa"]))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).rewards_G.tolist() == [0.2]


@pytest.fixture
def elsewhere() -> Iterator[RewardPlan]:
    """The plan of a run that uses a service on this machine, which scores a text by its length in tenths."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            items = json.loads(self.rfile.read(int(self.headers["content-length"])))["items"]
            if any(item["completion"] == "break" for item in items):
                return self.send_error(500)
            scores = [{"score": len(item["completion"]) / 10, "class": 4} for item in items]
            content = json.dumps({"scores": scores}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    spec = HttpRewardSpec(
        url=f"http://127.0.0.1:{server.server_port}",
        classes="service",
        client=ClientSpec(max_attempts=1, breaker_failures=1, breaker_open_s=0.3),
    )
    yield plan_reward(spec, HiddenTrapGridSpec())
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_service_elsewhere_is_called_without_a_deployment(elsewhere: RewardPlan) -> None:
    assert elsewhere.is_remote
    client = RewardClient("elsewhere", elsewhere.reward.service, RemoteCall(elsewhere))
    groups = await asyncio.gather(
        *(client.score_group(Prompt("1", "p"), ["a" * at, "b"], want_distances=True) for at in range(3))
    )
    assert [group.rewards_G.tolist() for group in groups] == [[at / 10, 0.1] for at in range(3)]
    assert [group.classes_G.tolist() for group in groups] == [[4, 4]] * 3
    assert groups[2].distances_GG is not None and groups[2].distances_GG.tolist() == [[0, 0], [0, 0]]


async def test_remote_service_failure_unscores_the_group_and_delays_the_next(
    elsewhere: RewardPlan,
) -> None:
    client = RewardClient("elsewhere", elsewhere.reward.service, RemoteCall(elsewhere))
    broken = await client.score_group(Prompt("1", "p"), ["break"])
    assert np.isnan(broken.rewards_G).all() and "500" in str(broken.errors[0])
    started = time.monotonic()
    later = await client.score_group(Prompt("1", "p"), ["aa"])  # the circuit is open: it is waited for
    assert later.rewards_G.tolist() == [0.2] and time.monotonic() - started > 0.2


async def test_a_token_that_is_missing_where_groups_are_scored_is_the_reason(elsewhere: RewardPlan) -> None:
    reward = elsewhere.reward.model_copy(update={"token_env": "NO_SUCH_TOKEN"})
    client = RewardClient("elsewhere", reward.service, RemoteCall(replace(elsewhere, reward=reward)))
    group = await client.score_group(Prompt("1", "p"), ["a"])
    assert "NO_SUCH_TOKEN" in str(group.errors[0])


def test_only_a_plain_remote_reward_needs_no_deployment(elsewhere: RewardPlan) -> None:
    assert not replace(elsewhere, second_opinion=VerifierRewardSpec()).is_remote
    assert not replace(elsewhere, diversity=DiversitySpec(source="embedding")).is_remote
    assert not replace(elsewhere, reward=VerifierRewardSpec()).is_remote
    with pytest.raises(RewardError, match="remote"):
        reward_client.build_remote(replace(elsewhere, reward=VerifierRewardSpec()))
