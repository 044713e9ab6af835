"""Several models in one replica: selection, canaries, reloads, limits, metrics."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import itertools
import math
import re
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.config.serve import RewardServeConfig
from polyray.errors import ConfigError, RewardError
from polyray.metrics.diversity import mean_pairwise_cosine_distance
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.groups import GroupToScore
from polyray.rewards.protocol import ScoreRequest
from polyray.serving.reward import models as models_module
from polyray.serving.reward.batching import ServiceOverloaded
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.models import RewardTimeout
from polyray.serving.reward.service import RewardService
from polyray.types import Prompt
from tests.unit.serving.reward_service_fixtures import (
    HALF,
    PROMPT,
    HashEncoder,
    app_of,
    ask,
    constant,
    item,
    python_plan,
    service_of,
    two_models,
    verifier_plan,
)

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


async def test_a_request_names_its_model_and_the_first_is_the_default():
    service = two_models()
    app = app_of(service)
    body = {"items": [item("RRRUUU"), item("x")]}
    default = (await ask(app, "POST", "/v1/score", json=body)).json()
    half = (await ask(app, "POST", "/v1/score", json={**body, "model": "half"})).json()
    assert (
        default["reward_model"] == "verifier/hidden_trap_grid"
        and half["reward_model"] == "python/mine.py:score"
    )
    assert [score["score"] for score in default["scores"]] == [1.0, 0.0]
    assert [score["score"] for score in half["scores"]] == [0.5, 0.5]
    (group,) = await service.score_groups([GroupToScore(Prompt("1", "37|b1>e4="), ("x",))], model="half")
    assert group.rewards_G.tolist() == [0.5]
    listed = (await ask(app, "GET", "/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["verifier", "half"]
    answer = await ask(app, "POST", "/v1/score", json={**body, "model": "none"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert re.search("'none'.* verifier, half", error.pop("message"))
    assert error == {
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
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
def test_batches_of_http_and_handle_never_mix_items(callers, max_batch_size, max_batch_tokens):
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
        group = await service.score_group(Prompt(str(number), prompt), texts)
        return group.rewards_G.tolist()

    async def all_scores() -> list[list[float]]:
        return await asyncio.gather(*(one(at, http, texts) for at, (http, texts) in enumerate(callers)))

    assert asyncio.run(all_scores()) == [
        [echo(f"{10 + at}|b1>e4=", text) for text in texts] for at, (_, texts) in enumerate(callers)
    ]


async def test_one_callers_poison_does_not_reach_the_others(monkeypatch: pytest.MonkeyPatch):
    service = service_of({"half": python_plan(HALF)})
    reward = service.models.default.reward
    scored: list[int] = []

    def score(items: Sequence[ScoreItem]) -> list[Score]:
        scored.append(len(items))
        if any(one.completion == "poison" for one in items):
            raise RuntimeError("a defect of the reward")
        return [Score(0.5, 0) for _ in items]

    monkeypatch.setattr(reward, "score", score)
    requests = [GroupToScore(Prompt(text, PROMPT), (text, text)) for text in ("a", "poison", "b")]
    answers = await asyncio.gather(
        *(service.score_groups([request]) for request in requests), return_exceptions=True
    )
    first, poisoned, last = answers
    assert first[0].rewards_G.tolist() == last[0].rewards_G.tolist() == [0.5, 0.5]  # type: ignore[index]
    assert isinstance(poisoned, RuntimeError)
    assert scored == [6, 2, 2, 2]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that the user's function waits for: it runs in a thread of this process."""
    builtins.reward_gate = threading.Event()  # type: ignore[attr-defined]
    yield builtins.reward_gate  # type: ignore[attr-defined]
    builtins.reward_gate.set()  # type: ignore[attr-defined]


WAITING = (
    "import builtins\ndef score(items):\n    builtins.reward_gate.wait(5)\n    return [0.25] * len(items)\n"
)


async def test_a_full_queue_answers_429_and_a_slow_reward_504(gate: threading.Event):
    service = service_of(
        {"slow": python_plan(WAITING)},
        max_batch_size=1,
        max_queued_batches=2,
        request_timeout_s=0.5,
    )
    app = app_of(service)
    waiting = []
    for _ in range(3):  # one is scored, two wait
        request = ask(app, "POST", "/v1/score", json={"items": [item("a")]})
        waiting.append(asyncio.create_task(request))
        await asyncio.sleep(0.03)
    refused = await ask(app, "POST", "/v1/score", json={"items": [item("a")]})
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    answers = await asyncio.gather(*waiting)
    assert [answer.status_code for answer in answers] == [504] * 3
    assert answers[0].json()["error"]["code"] == "timeout"
    assert "0.45 s" in answers[0].json()["error"]["message"]
    gate.set()
    assert service.models.default.batcher.queued == 0  # nobody waits for them any more


async def test_a_late_call_is_waited_for_and_the_replica_is_well_again(gate: threading.Event):
    service = service_of({"slow": python_plan(WAITING)}, request_timeout_s=0.2)
    (late,) = await service.score_groups([GroupToScore(Prompt("1", PROMPT), ("a",))])
    assert np.isnan(late.rewards_G).all() and "0.18 s" in str(late.errors[0])
    with pytest.raises(RewardTimeout):
        await service.check_health()
    gate.set()
    (group,) = await service.score_groups([GroupToScore(Prompt("1", PROMPT), ("a",))])
    assert group.rewards_G.tolist() == [0.25]
    await service.check_health()


def test_a_canary_that_scores_two_things_is_refused(monkeypatch: pytest.MonkeyPatch):
    scores = iter([Score(0.2, 0), Score(0.3, 0)])
    monkeypatch.setattr(models_module, "canary_score", lambda reward: next(scores))
    with pytest.raises(RewardError, match=r"verifier.*two scores"):
        service_of({"verifier": verifier_plan()})


async def test_health_is_the_canarys_score(monkeypatch: pytest.MonkeyPatch):
    service = two_models()
    await service.check_health()
    model = service.models.default
    assert (
        model.canary is not None and service.models.by_id["half"].canary is None
    )  # a user's function is not asked
    monkeypatch.setattr(model.reward, "score", lambda items: [Score(0.7, 0)])
    with pytest.raises(RewardError, match=r"verifier: .*canary .*None .*0\.7"):
        await service.check_health()
    answer = await ask(app_of(service), "GET", "/readyz")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_ready"


async def test_health_does_not_wait_for_a_long_batch(gate: threading.Event, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models_module, "CANARY_WAIT_S", 0.05)
    service = service_of({"slow": python_plan(WAITING)})
    service.models.default.canary = Score(0.25, 0)
    scoring = asyncio.create_task(service.score_group(Prompt("1", PROMPT), ["a"]))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(service.check_health(), 2.0)
    assert not scoring.done()
    gate.set()
    assert (await scoring).rewards_G.tolist() == [0.25]


def configuration(source: str, revision: str) -> dict:
    return ReplicaConfiguration({"mine": python_plan(source)}, revision=revision).as_json()


async def settled(service: RewardService) -> None:
    while service._reload is not None and not service._reload.done():
        await asyncio.sleep(0.005)


async def test_reload_swaps_versions_once_and_drops_no_request():
    service = RewardService(service_of({"a": python_plan(HALF)})._spec)
    await service.reconfigure(configuration(constant(0.1), "1"))
    app = app_of(service)
    answers: list[tuple[str, float]] = []
    stop = asyncio.Event()

    async def ask_all_the_time() -> None:
        while not stop.is_set():
            answer = await ask(app, "POST", "/v1/score", json={"items": [item("a")]})
            assert answer.status_code == 200
            answers.append((answer.json()["version"], answer.json()["scores"][0]["score"]))

    asking = [asyncio.create_task(ask_all_the_time()) for _ in range(4)]
    await asyncio.sleep(0.05)
    source = constant(0.9, before="import time; time.sleep(0.2)")
    await asyncio.wait_for(
        service.reconfigure(configuration(source, "2")), 0.15
    )  # Serve must not wait for it
    await settled(service)
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*asking)
    versions = [version for version, _ in answers]
    changes = sum(before != after for before, after in itertools.pairwise(versions))
    assert {score for _, score in answers} == {0.1, 0.9}
    assert len({*answers}) == 2  # each version with its own score
    assert changes <= 2 * len(asking) and versions[0] != versions[-1]
    info = await service.info()
    assert info.revision == "2" and info.reload_error is None and info.version == versions[-1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (configuration("import not_there\ndef score(items): ...\n", "2"), "No module named 'not_there'"),
        ({"plans": {"mine": {}}, "encoder": "packaged", "revision": "2"}, "user_config.plans"),
        ({"rewards": {}}, "'rewards'; did you mean 'reward'"),
    ],
)
async def test_a_configuration_that_cannot_be_loaded_leaves_the_old_one_serving(bad: dict, message: str):
    service = RewardService(service_of({"a": python_plan(HALF)})._spec)
    await service.reconfigure(configuration(HALF, "1"))
    await service.reconfigure(bad)
    await settled(service)
    info = await service.info()
    assert info.revision == "1" and message in str(info.reload_error)
    assert (await service.score_group(Prompt("1", PROMPT), ["a"])).rewards_G.tolist() == [0.5]
    await service.reconfigure(configuration(HALF, "3"))
    await settled(service)
    info = await service.info()
    assert (info.revision, info.reload_error) == ("3", None)


async def test_the_first_configuration_must_load():
    service = RewardService(service_of({"a": python_plan(HALF)})._spec)
    with pytest.raises(RewardError, match="not_there"):
        await service.reconfigure(configuration("import not_there\ndef score(items): ...\n", "1"))
    with pytest.raises(RewardError, match="no models"):
        await service.check_health()


async def test_of_several_new_configurations_the_last_one_counts():
    service = RewardService(service_of({"a": python_plan(HALF)})._spec)
    await service.reconfigure(configuration(HALF, "1"))
    for revision in "234":
        await service.reconfigure(configuration(HALF, revision))
    await settled(service)
    assert (await service.info()).revision == "4"


def test_configuration_is_read_from_json_and_from_the_form_of_files():
    sent = ReplicaConfiguration({"b": verifier_plan(), "a": python_plan(HALF)}, "packaged", "7")
    assert ReplicaConfiguration.from_json(sent.as_json()) == sent
    assert list(ReplicaConfiguration.from_json(sent.as_json()).plans) == ["b", "a"]
    written = {"models": {"v": {"type": "verifier"}}, "task": {"type": "hidden_trap_grid"}, "revision": "x"}
    read = ReplicaConfiguration.from_json(written)
    assert list(read.plans) == ["v"] and read.revision == "x"
    with pytest.raises(ConfigError, match=r"`reward` .*`service`"):
        ReplicaConfiguration.from_json({**written, "reward": {"type": "verifier"}})
    with pytest.raises(ConfigError, match=r"models\.v\.service"):
        ReplicaConfiguration.from_json({"models": {"v": {"type": "verifier", "service": {}}}})
    assert RewardServeConfig().specs.keys() == {"reward"}


async def test_embeddings_and_diversity():
    app = app_of(two_models())
    texts = ["one", "two", "one"]
    embedded = (await ask(app, "POST", "/v1/embed", json={"texts": texts})).json()
    expected = HashEncoder().encode(texts)
    assert embedded["encoder"] == "hash" and embedded["dimension"] == 32
    np.testing.assert_array_equal(embedded["embeddings"], expected)
    groups = {"g": texts, "alone": ["one"]}
    answer = (await ask(app, "POST", "/v1/diversity", json={"groups": groups})).json()
    assert answer["source"] == "embedding" and answer["encoder"] == "hash"
    distances = np.array(answer["groups"]["g"]["distances"])
    clipped = np.clip(1 - expected @ expected.T, 0, 1) * (1 - np.eye(3))
    clipped[0, 2] = clipped[2, 0] = 0.0  # equal texts: exactly
    np.testing.assert_allclose(distances, clipped, atol=1e-12)
    assert distances[0, 2] == 0.0
    assert answer["groups"]["g"]["mean"] == pytest.approx(clipped.sum() / 6)
    assert answer["groups"]["g"]["mean"] <= mean_pairwise_cosine_distance(expected) + 1e-12
    assert answer["groups"]["alone"] == {"distances": [[0.0]], "mean": 0.0}
    words = {"w": ["a b c d e", "a b c d f", "a b c d e"]}
    ngram = (await ask(app, "POST", "/v1/diversity", json={"groups": words, "source": "ngram"})).json()
    assert ngram["encoder"] is None
    far = 1 - 1 / 3  # of the 4-grams abcd, bcde, bcdf one is shared
    np.testing.assert_allclose(ngram["groups"]["w"]["distances"], [[0, far, 0], [far, 0, far], [0, far, 0]])
    unknown = await ask(app, "POST", "/v1/embed", json={"texts": ["a"], "model": "none"})
    assert unknown.status_code == 404


async def test_a_deterministic_model_scores_an_item_once_also_after_a_reload():
    plan = python_plan(HALF, deterministic=True)
    service = service_of({"half": plan})
    counts = {"hits": 0, "misses": 0}

    def count(model_id: str, hits: int, misses: int) -> None:
        counts["hits"] += hits
        counts["misses"] += misses

    service.metrics.cache = count  # type: ignore[method-assign]
    for _ in range(2):
        await service.score_group(Prompt("1", PROMPT), ["a", "b", "a"])
    assert counts == {"hits": 4, "misses": 2}
    service.load(ReplicaConfiguration({"half": plan}, revision="2"))
    await service.score_group(Prompt("1", PROMPT), ["a", "b", "a"])
    assert counts == {"hits": 7, "misses": 2}
    service.load(ReplicaConfiguration({"half": python_plan(HALF + "#", deterministic=True)}, revision="3"))
    await service.score_group(Prompt("1", PROMPT), ["a", "b", "a"])
    assert counts == {"hits": 8, "misses": 4}
    infos = [service.model_infos()[0].cached, two_models().model_infos()[1].cached]
    assert infos == [True, False]  # a user's function may depend on more than its item


async def test_metrics_count_requests_items_and_unscored_items():
    service = two_models()
    seen: dict[str, list[tuple]] = {"request": [], "batch": []}
    service.metrics.request = lambda *values: seen["request"].append(values)  # type: ignore[method-assign]
    service.metrics.batch = lambda *values: seen["batch"].append(values)  # type: ignore[method-assign]
    app = app_of(service)
    await ask(app, "POST", "/v1/score", json={"items": [item("RRRUUU"), item("x", "?")], "model": "verifier"})
    await ask(app, "POST", "/v1/score", json={"items": []})
    await ask(app, "POST", "/v1/score", json={"items": [item("a")], "model": "x" * 50})
    await ask(app, "GET", "/run/v1/info", root_path="/run")
    await ask(app, "GET", "/nowhere/at/all")
    labels = [(route, model, status) for route, model, status, _ in seen["request"]]
    assert labels == [
        ("/v1/score", "verifier", 200),
        ("/v1/score", "", 400),
        ("/v1/score", "", 404),
        ("/v1/info", "", 200),
        ("other", "", 404),
    ]
    ((model, num_items, tokens, seconds, unscored),) = seen["batch"]
    assert (model, num_items, unscored) == ("verifier", 2, 1)
    assert tokens > 0 and math.isfinite(seconds)
    with pytest.raises(ServiceOverloaded):
        service.models.default.batcher._queued_tokens = 10**9
        service.models.default.batcher.check_room()
