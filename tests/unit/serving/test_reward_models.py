"""A reward replica: routes and handle methods, several models, canaries, reloads, limits, metrics."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.config.serve import RewardServeConfig
from polyray.errors import ConfigError, RewardError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.groups import GroupToScore
from polyray.rewards.protocol import MAX_DISTANCE_ITEMS, MAX_ITEMS, MAX_TEXT_CHARS, ScoreRequest
from polyray.serving.reward import models as models_module
from polyray.serving.reward.batching import ServiceOverloaded
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.models import RewardTimeout
from polyray.serving.reward.service import RewardService
from polyray.types import Prompt
from tests.unit.serving.reward_service_fixtures import (
    HALF,
    PROMPT,
    WAITING,
    app_of,
    ask,
    constant,
    item,
    python_plan,
    service_of,
    spec_of,
    two_models,
    verifier_plan,
)

ACROSS, UP = "RRRUUU", "UUURRR"
FAR = 1 - 1 / 11
"""Distance of ACROSS and UP: the paths share start and goal only; the goal does not count: 1 of 11 cells."""
BROKEN = "import not_there\ndef score(items): ...\n"
ECHO = """
import hashlib
def score(items):
    return [{"score": one(item), "class": 0} for item in items]
def one(item):
    digest = hashlib.sha256(repr((item["prompt"], item["completion"])).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
"""


def echo(prompt: str, completion: str) -> float:
    digest = hashlib.sha256(repr((prompt, completion)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def group(*texts: str, distances: bool = False) -> GroupToScore:
    return GroupToScore(Prompt("1", PROMPT), texts, want_distances=distances)


async def scored(service: RewardService, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await ask(app_of(service), "POST", "/v1/score", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_replica_scores_items_in_order_with_the_model_that_is_asked() -> None:
    service = two_models()
    items = [item("RRR"), item(ACROSS), item("x", "?")]
    default = await scored(service, items=items)
    assert default["reward_model"] == "verifier/hidden_trap_grid" and "distances" not in default
    assert default["version"] == service.models.default.reward.version
    wrong, right, unscored = default["scores"]
    assert wrong == {"score": 0.0, "class": -1, "components": {}, "error": None}
    assert right["score"] == 1.0 and right["class"] >= 0
    assert unscored["score"] is None and "'?' is not a prompt of hidden_trap_grid" in unscored["error"]
    half = await scored(service, items=items, model="half")
    assert half["reward_model"] == "python/mine.py:score"
    assert [score["score"] for score in half["scores"]] == [0.5] * 3
    error = (await scored(service, 404, items=items, model="none"))["error"]
    assert re.search("'none'.* verifier, half", error.pop("message"))
    assert error == {"type": "invalid_request_error", "param": "model", "code": "model_not_found"}


async def test_replica_distances_are_per_group_over_http_and_handle() -> None:
    service = service_of({"verifier": verifier_plan()})
    items = [item(ACROSS, group="a"), item(ACROSS), item(UP, group="a"), item("x")]
    answer = await scored(service, items=items, distances=True)
    assert answer["distances"] == {"a": [[0.0, FAR], [FAR, 0.0]], "default": [[0.0, 0.0], [0.0, 0.0]]}
    first, second = await service.score_groups([group(ACROSS, "RRR", UP, distances=True), group("RRR")])
    np.testing.assert_array_equal(first.rewards_G, [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(first.distances_GG, [[0, 0, FAR], [0, 0, 0], [FAR, 0, 0]])
    assert first.classes_G.dtype == np.int64 and first.classes_G[1] == -1
    assert second.rewards_G.tolist() == [0.0] and second.distances_GG is None
    (half,) = await two_models().score_groups([group("x")], model="half")
    assert half.rewards_G.tolist() == [0.5]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"items": []}, "items", "at least 1 item"),
        ({}, "items", "Field required"),
        ({"items": [{"prompt": "p"}]}, "items.0.completion", "Field required"),
        ({"items": [item("a", extra=1)]}, "items.0.extra", "Extra inputs are not permitted"),
        ({"items": [{"prompt": 3, "completion": "a"}]}, "items.0.prompt", "valid string"),
        ({"items": [item("a")] * (MAX_ITEMS + 1)}, "items", f"at most {MAX_ITEMS} items"),
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
async def test_replica_request_over_a_limit_is_refused_by_name(
    body: dict[str, Any], param: str | None, message: str
) -> None:
    error = (await scored(two_models(), 400, **body))["error"]
    assert error["param"] == param and message in error["message"]
    assert error["type"] == "invalid_request_error"


async def test_replica_information_needs_the_token_and_health_does_not() -> None:
    service = two_models()
    app = app_of(service, "t0ken")
    assert (await ask(app, "GET", "/healthz")).json() == {"status": "ok"}
    assert (await ask(app, "GET", "/readyz")).json() == {"status": "ready"}
    assert (await ask(app, "GET", "/v1/info")).status_code == 401
    info, listed = [
        (await ask(app, "GET", path, headers={"Authorization": "Bearer t0ken"})).json()
        for path in ("/v1/info", "/v1/models")
    ]
    assert [model["id"] for model in listed["data"]] == ["verifier", "half"]
    assert info["version"] == service.models.default.reward.version
    assert info["models"][0] == {
        "id": "verifier",
        "reward_model": "verifier/hidden_trap_grid",
        "version": info["version"],
        "score_range": [0.0, 1.0],
        "cached": False,
    }


@settings(max_examples=25, deadline=None)
@given(
    callers=st.lists(
        st.tuples(st.booleans(), st.lists(st.text(max_size=12), min_size=1, max_size=9)),
        min_size=1,
        max_size=20,
    ),
    max_batch_size=st.integers(1, 5),
    max_batch_tokens=st.integers(1, 200),
)
def test_replica_batches_of_http_and_handle_never_mix_items(
    callers: list[tuple[bool, list[str]]], max_batch_size: int, max_batch_tokens: int
) -> None:
    service = service_of(
        {"echo": python_plan(ECHO)},
        max_batch_size=max_batch_size,
        max_batch_tokens=max_batch_tokens,
        max_queued_batches=10_000,
    )

    async def one(number: int, over_http: bool, texts: list[str]) -> list[float]:
        prompt = f"{10 + number}|b1>e4="
        if over_http:
            items = [{"prompt": prompt, "completion": text} for text in texts]
            response = await service.score_request(ScoreRequest.model_validate({"items": items}))
            return [score.score for score in response.scores if score.score is not None]
        return (await service.score_group(Prompt(str(number), prompt), texts)).rewards_G.tolist()

    async def all_scores() -> list[list[float]]:
        return await asyncio.gather(*(one(at, http, texts) for at, (http, texts) in enumerate(callers)))

    assert asyncio.run(all_scores()) == [
        [echo(f"{10 + at}|b1>e4=", text) for text in texts] for at, (_, texts) in enumerate(callers)
    ]


async def test_replica_defect_of_one_callers_item_does_not_reach_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = service_of({"half": python_plan(HALF)})
    sizes: list[int] = []

    def score(items: Sequence[ScoreItem]) -> list[Score]:
        sizes.append(len(items))
        if any(one.completion == "poison" for one in items):
            raise RuntimeError("a defect of the reward")
        return [Score(0.5, 0) for _ in items]

    monkeypatch.setattr(service.models.default.reward, "score", score)
    calls = (service.score_groups([group(text, text)]) for text in ("a", "poison", "b"))
    first, poisoned, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(poisoned, RuntimeError) and sizes == [6, 2, 2, 2]
    for answer in (first, last):
        assert not isinstance(answer, BaseException) and answer[0].rewards_G.tolist() == [0.5, 0.5]


async def test_replica_function_runs_once_at_a_time_and_beside_the_event_loop(gate: threading.Event) -> None:
    source = (
        "import builtins, threading\nlock = threading.Lock()\n"
        "def score(items):\n    assert lock.acquire(blocking=False)\n"
        "    opened = builtins.reward_gate.wait(5)\n    lock.release()\n    return [opened] * len(items)\n"
    )
    service = service_of({"slow": python_plan(source)})
    calls = asyncio.gather(*(scored(service, items=[item("a")]) for _ in range(3)))
    by_handle = asyncio.create_task(service.score_groups([group("a")]))
    await asyncio.sleep(0.05)
    gate.set()  # comes in time only if the function does not block the loop
    assert [answer["scores"][0]["score"] for answer in await calls] == [1.0] * 3
    assert (await by_handle)[0].rewards_G.tolist() == [1.0]


async def test_replica_full_queue_answers_429_and_a_slow_reward_504(gate: threading.Event) -> None:
    limits = {"max_batch_size": 1, "max_queued_batches": 2, "request_timeout_s": 0.5}
    service = service_of({"slow": python_plan(WAITING)}, **limits)
    app = app_of(service)
    waiting = []
    for _ in range(3):  # one is scored, two wait
        request = ask(app, "POST", "/v1/score", json={"items": [item("a")]})
        waiting.append(asyncio.create_task(request))
        await asyncio.sleep(0.03)
    refused = await ask(app, "POST", "/v1/score", json={"items": [item("a")]})
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    for answer in await asyncio.gather(*waiting):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (504, "timeout") and "0.45 s" in error["message"]
    gate.set()
    assert service.models.default.batcher.queued == 0


async def test_replica_with_a_hanging_call_is_unhealthy_until_it_returns(gate: threading.Event) -> None:
    service = service_of({"slow": python_plan(WAITING)}, request_timeout_s=0.2)
    await service.check_health()
    (late,) = await service.score_groups([group("a")])
    assert np.isnan(late.rewards_G).all() and "0.18 s" in str(late.errors[0])
    with pytest.raises(RewardTimeout, match=r"0\.18 s"):
        await service.check_health()
    answer = await ask(app_of(service), "GET", "/readyz")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_ready"
    gate.set()
    (again,) = await service.score_groups([group("a")])
    assert again.rewards_G.tolist() == [0.25]
    await service.check_health()


async def test_replica_health_is_the_canarys_score(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = two_models()
    await service.check_health()
    model = service.models.default
    assert model.canary is not None
    assert service.models.by_id["half"].canary is None  # a user's function is not asked
    monkeypatch.setattr(model.reward, "score", lambda items: [Score(0.7, 0)])
    with pytest.raises(RewardError, match=r"verifier: .*canary .*None .*0\.7"):
        await service.check_health()
    # Health does not wait for a long batch.
    monkeypatch.setattr(models_module, "CANARY_WAIT_S", 0.05)
    slow = service_of({"slow": python_plan(WAITING)})
    slow.models.default.canary = Score(0.25, 0)
    scoring = asyncio.create_task(slow.score_group(Prompt("1", PROMPT), ["a"]))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(slow.check_health(), 2.0)
    assert not scoring.done()
    gate.set()
    assert (await scoring).rewards_G.tolist() == [0.25]
    scores = iter([Score(0.2, 0), Score(0.3, 0)])
    monkeypatch.setattr(models_module, "canary_score", lambda reward: next(scores))
    with pytest.raises(RewardError, match=r"verifier.*two scores"):
        service_of({"verifier": verifier_plan()})


def configuration(source: str, revision: str) -> dict[str, Any]:
    return ReplicaConfiguration({"mine": python_plan(source)}, revision=revision).as_json()


async def settled(service: RewardService) -> None:
    while service._reload is not None and not service._reload.done():
        await asyncio.sleep(0.005)


async def test_replica_reload_swaps_versions_once_and_drops_no_request() -> None:
    service = RewardService(spec_of())
    await service.reconfigure(configuration(constant(0.1), "1"))
    answers: list[tuple[str, float]] = []
    stop = asyncio.Event()

    async def ask_all_the_time() -> None:
        while not stop.is_set():
            answer = await scored(service, items=[item("a")])
            answers.append((answer["version"], answer["scores"][0]["score"]))

    asking = [asyncio.create_task(ask_all_the_time()) for _ in range(4)]
    await asyncio.sleep(0.05)
    source = constant(0.9, before="import time; time.sleep(0.2)")
    await asyncio.wait_for(service.reconfigure(configuration(source, "2")), 0.15)  # Serve must not wait
    for revision in "34":  # of several new configurations the last one counts
        await service.reconfigure(configuration(source, revision))
    await settled(service)
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*asking)
    versions = [version for version, _ in answers]
    changes = sum(before != after for before, after in itertools.pairwise(versions))
    assert {score for _, score in answers} == {0.1, 0.9} and len({*answers}) == 2
    assert changes <= 2 * len(asking) and versions[0] != versions[-1]
    info = await service.info()
    assert info.revision == "4" and info.reload_error is None and info.version == versions[-1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (configuration(BROKEN, "2"), "No module named 'not_there'"),
        ({"plans": {"mine": {}}, "revision": "2"}, "user_config.plans"),
        ({"rewards": {}}, "'rewards'; did you mean 'reward'"),
    ],
)
async def test_replica_configuration_that_cannot_be_loaded_leaves_the_old_one_serving(
    bad: dict[str, Any], message: str
) -> None:
    service = RewardService(spec_of())
    with pytest.raises(RewardError, match="not_there"):
        await service.reconfigure(configuration(BROKEN, "1"))
    with pytest.raises(RewardError, match="no models"):
        await service.check_health()
    seen: list[tuple[str, str | None]] = []
    refused: list[str | None] = []
    for values in (configuration(HALF, "1"), bad, configuration(HALF, "3")):
        await service.reconfigure(values)
        await settled(service)
        info = await service.info()
        seen.append((info.revision, info.reload_error))
        refused.append(info.refused_revision)
        assert (await service.score_group(Prompt("1", PROMPT), ["a"])).rewards_G.tolist() == [0.5]
    assert [revision for revision, _ in seen] == ["1", "1", "3"]
    assert message in str(seen[1][1]) and seen[2][1] is None
    assert refused == [None, bad.get("revision", ""), None]


async def test_replica_that_gets_its_configuration_back_loads_nothing() -> None:
    service = RewardService(spec_of())
    good = configuration(HALF, "1")
    await service.reconfigure(good)
    models = service.models
    for values in (configuration(BROKEN, "2"), good):
        await service.reconfigure(values)
        await settled(service)
    info = await service.info()
    assert service.models is models and (info.revision, info.refused_revision) == ("1", "2")
    assert "not_there" in str(info.reload_error)


async def test_replica_configuration_that_is_taken_back_while_it_loads_is_never_served() -> None:
    service = RewardService(spec_of())
    good, slow = (
        configuration(HALF, "1"),
        configuration(constant(0.9, before="import time; time.sleep(0.3)"), "2"),
    )
    await service.reconfigure(good)
    models = service.models
    await service.reconfigure(slow)
    await asyncio.sleep(0.1)  # it is being loaded
    await service.reconfigure(good)
    await settled(service)
    assert service.models is models and (await service.info()).revision == "1"
    assert (await service.score_group(Prompt("1", PROMPT), ["a"])).rewards_G.tolist() == [0.5]


def test_replica_configuration_is_read_from_json_and_from_the_form_of_files() -> None:
    sent = ReplicaConfiguration({"b": verifier_plan(), "a": python_plan(HALF)}, "7")
    read = ReplicaConfiguration.from_json(sent.as_json())
    assert read == sent and list(read.plans) == ["b", "a"]
    written = {"models": {"v": {"type": "verifier"}}, "task": {"type": "hidden_trap_grid"}, "revision": "x"}
    read = ReplicaConfiguration.from_json(written)
    assert list(read.plans) == ["v"] and read.revision == "x"
    with pytest.raises(ConfigError, match=r"`reward` .*`service`"):
        ReplicaConfiguration.from_json({**written, "reward": {"type": "verifier"}})
    with pytest.raises(ConfigError, match=r"models\.v\.service"):
        ReplicaConfiguration.from_json({"models": {"v": {"type": "verifier", "service": {}}}})
    assert RewardServeConfig().specs.keys() == {"reward"}


async def test_replica_deterministic_model_scores_an_item_once_also_after_a_reload() -> None:
    plan = python_plan(HALF, deterministic=True)
    service = service_of({"half": plan})
    counts: list[tuple[int, int]] = []
    service.metrics.cache = lambda model, hits, misses: counts.append((hits, misses))  # type: ignore[method-assign]

    async def score() -> tuple[int, int]:
        counts.clear()
        await service.score_group(Prompt("1", PROMPT), ["a", "b", "a"])
        hits, misses = zip(*counts, strict=True)
        return sum(hits), sum(misses)

    assert [await score() for _ in range(2)] == [(1, 2), (3, 0)]
    service.load(ReplicaConfiguration({"half": plan}, revision="2"))
    assert await score() == (3, 0)
    service.load(ReplicaConfiguration({"half": python_plan(HALF + "#", deterministic=True)}, revision="3"))
    assert await score() == (1, 2)
    infos = [service.model_infos()[0].cached, two_models().model_infos()[1].cached]
    assert infos == [True, False]  # a user's function may depend on more than its item


async def test_replica_metrics_count_requests_items_and_unscored_items() -> None:
    service = two_models()
    requests: list[tuple[Any, ...]] = []
    batches: list[tuple[Any, ...]] = []
    service.metrics.request = lambda *values: requests.append(values[:3])  # type: ignore[method-assign]
    service.metrics.batch = lambda *values: batches.append(values)  # type: ignore[method-assign]
    app = app_of(service)
    await ask(app, "POST", "/v1/score", json={"items": [item(ACROSS), item("x", "?")], "model": "verifier"})
    await ask(app, "POST", "/v1/score", json={"items": []})
    await ask(app, "POST", "/v1/score", json={"items": [item("a")], "model": "x" * 50})
    await ask(app, "GET", "/run/v1/info", root_path="/run")
    await ask(app, "GET", "/nowhere/at/all")
    assert requests == [
        ("/v1/score", "verifier", 200),
        ("/v1/score", "", 400),
        ("/v1/score", "", 404),
        ("/v1/info", "", 200),
        ("other", "", 404),
    ]
    ((model, num_items, tokens, seconds, unscored),) = batches
    assert (model, num_items, unscored) == ("verifier", 2, 1)
    assert tokens > 0 and math.isfinite(seconds)
    with pytest.raises(ServiceOverloaded):
        service.models.default.batcher._queued_tokens = 10**9
        service.models.default.batcher.check_room()
