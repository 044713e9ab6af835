"""The reward service's routes and its handle methods, without Ray's processes."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from polyray.config.reward import DiversitySpec, PythonRewardSpec, VerifierRewardSpec
from polyray.config.service import ServiceSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import RewardError
from polyray.rewards import RewardPlan
from polyray.rewards.groups import GroupToScore
from polyray.rewards.protocol import MAX_DISTANCE_ITEMS, MAX_ITEMS, MAX_TEXT_CHARS
from polyray.serving.reward.routes import build_http_app
from polyray.serving.reward.service import RewardService
from polyray.types import Prompt

TASK = HiddenTrapGridSpec(trap_probability=0.0)
DISTANCES = DiversitySpec(source="task_distance")
PROMPT = "37|b1>e4="
ACROSS, UP = "RRRUUU", "UUURRR"


def verifier() -> RewardService:
    return RewardService.serving(RewardPlan(VerifierRewardSpec(), TASK, DISTANCES, {}))


def python(source: str, **service) -> RewardService:
    spec = PythonRewardSpec(path="mine.py:score", service=ServiceSpec(**service))
    return RewardService.serving(RewardPlan(spec, TASK, DISTANCES, {spec.path: source}))


async def ask(service: RewardService | FastAPI, method: str, path: str, **options) -> httpx.Response:
    app = service if isinstance(service, FastAPI) else build_http_app(service, None)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


def item(completion: str, prompt: str = PROMPT, **more) -> dict:
    return {"prompt": prompt, "completion": completion, **more}


async def test_scores_in_the_order_of_the_items():
    service = verifier()
    answer = await ask(
        service, "POST", "/v1/score", json={"items": [item("RRR"), item(ACROSS), item("x", "?")]}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (
        body["reward_model"] == "verifier/hidden_trap_grid"
        and body["version"] == service.models.default.reward.version
    )
    assert "distances" not in body
    wrong, right, unscored = body["scores"]
    assert wrong == {"score": 0.0, "class": -1, "components": {}, "error": None}
    assert right["score"] == 1.0 and right["class"] >= 0
    assert unscored["score"] is None and "'?' is not a prompt of hidden_trap_grid" in unscored["error"]


async def test_distances_per_group_in_the_order_of_its_items():
    items = [item(ACROSS, group="a"), item(ACROSS), item(UP, group="a"), item("x")]
    answer = await ask(verifier(), "POST", "/v1/score", json={"items": items, "distances": True})
    # The two paths share start and goal only; the goal does not count: 1 of 11 cells.
    far = 1 - 1 / 11
    assert answer.json()["distances"] == {"a": [[0.0, far], [far, 0.0]], "default": [[0.0, 0.0], [0.0, 0.0]]}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"items": []}, "items", "at least 1 item"),
        ({}, "items", "Field required"),
        ({"items": [{"prompt": "p"}]}, "items.0.completion", "Field required"),
        ({"items": [item("a", extra=1)]}, "items.0.extra", "Extra inputs are not permitted"),
        ({"items": [{"prompt": 3, "completion": "a"}]}, "items.0.prompt", "valid string"),
        (
            {"items": [item("a")] * (MAX_ITEMS + 1)},
            "items",
            f"at most {MAX_ITEMS} items after validation, not",
        ),
        (
            {"items": [item("a" * (MAX_TEXT_CHARS + 1))]},
            "items.0.completion",
            f"{MAX_TEXT_CHARS} characters, not {MAX_TEXT_CHARS + 1}",
        ),
        (
            {"items": [item("a")] * (MAX_DISTANCE_ITEMS + 1), "distances": True},
            None,
            f"{MAX_DISTANCE_ITEMS + 1} items",
        ),
    ],
)
async def test_requests_over_a_limit_are_named(body: dict, param: str | None, message: str):
    answer = await ask(verifier(), "POST", "/v1/score", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param and message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"items": [{"prompt": "\\ud800", "completion": ""}]}'])
async def test_bodies_that_are_no_json_or_no_text(content: bytes):
    headers = {"Content-Type": "application/json"}
    answer = await ask(verifier(), "POST", "/v1/score", content=content, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


async def test_health_info_and_token():
    service = verifier()
    app = build_http_app(service, SecretStr("t0ken"))
    assert (await ask(app, "GET", "/healthz")).json() == {"status": "ok"}
    assert (await ask(app, "GET", "/readyz")).json() == {"status": "ready"}
    assert (await ask(app, "GET", "/v1/info")).status_code == 401
    answer = await ask(app, "GET", "/v1/info", headers={"Authorization": "Bearer t0ken"})
    info = answer.json()
    assert info["reward_model"] == "verifier/hidden_trap_grid"
    assert info["version"] == service.models.default.reward.version
    (model,) = info["models"]
    assert model == {
        "id": "reward",
        "reward_model": "verifier/hidden_trap_grid",
        "version": info["version"],
        "score_range": [0.0, 1.0],
        "encoder": "packaged",
        "cached": False,
    }


async def test_a_batch_of_groups_becomes_arrays():
    requests = [
        GroupToScore(Prompt("1", PROMPT), (ACROSS, "RRR", UP), want_distances=True),
        GroupToScore(Prompt("1", PROMPT), ("RRR",)),
    ]
    first, second = await verifier().score_groups(requests)
    np.testing.assert_array_equal(first.rewards_G, [1.0, 0.0, 1.0])
    far = 1 - 1 / 11
    np.testing.assert_array_equal(first.distances_GG, [[0, 0, far], [0, 0, 0], [far, 0, 0]])
    assert first.classes_G.dtype == np.int64 and first.classes_G[1] == -1
    assert second.rewards_G.tolist() == [0.0] and second.distances_GG is None


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that the user's function can wait for: it runs in a thread of this process."""
    builtins.reward_gate = threading.Event()  # type: ignore[attr-defined]
    yield builtins.reward_gate  # type: ignore[attr-defined]
    builtins.reward_gate.set()  # type: ignore[attr-defined]


async def test_a_function_that_does_not_return_is_unscored_and_makes_the_replica_unhealthy(gate):
    source = "import builtins\ndef score(items):\n    builtins.reward_gate.wait(5)\n    return [1.0]\n"
    service = python(source, request_timeout_s=0.1)
    await service.check_health()
    (scores,) = await service.score_groups([GroupToScore(Prompt("1", PROMPT), ("a",))])
    assert np.isnan(scores.rewards_G).all()
    assert "0.09 s" in str(scores.errors[0])
    with pytest.raises(RewardError, match=r"0\.09 s"):
        await service.check_health()
    answer = await ask(service, "GET", "/readyz")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_ready"
    gate.set()


async def test_the_users_function_runs_once_at_a_time_and_beside_the_event_loop(gate):
    source = (
        "import builtins, threading\nlock = threading.Lock()\n"
        "def score(items):\n    assert lock.acquire(blocking=False)\n"
        "    opened = builtins.reward_gate.wait(5)\n    lock.release()\n    return [opened] * len(items)\n"
    )
    service = python(source)
    calls = [ask(service, "POST", "/v1/score", json={"items": [item("a")]}) for _ in range(3)]
    answers = asyncio.gather(*calls)
    groups = asyncio.gather(service.score_groups([GroupToScore(Prompt("1", PROMPT), ("a",))]))
    await asyncio.sleep(0.05)
    gate.set()  # comes in time only if the function does not block the loop
    assert [answer.json()["scores"][0]["score"] for answer in await answers] == [1.0] * 3
    assert [group.rewards_G.tolist() for (group,) in await groups] == [[1.0]]
