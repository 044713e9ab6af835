"""The generation service on real Ray Serve: OpenAI's client and faults.

The same routes on the same engine without Serve, in every `make test`: tests/unit/serving/generation.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from polyray.config.generation import GenerationServeConfig
from polyray.data.selections.store import SelectionStore
from polyray.models.base_files import base_fingerprint
from polyray.models.lora import save_adapter
from polyray.serving.generation.run import (
    GenerationServiceAddress,
    start_generation_service,
    stop_generation_service,
)
from tests.unit.serving.generation.tiny_service import (
    PROMPT,
    TOKENS,
    adapter_model,
    tiny_config,
    token_book,
)

pytestmark = pytest.mark.slow  # Serve and a replica with its engine take two minutes to start on two cores
PATIENCE_S = 180


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GenerationServeConfig:
    root = tmp_path_factory.mktemp("generation")
    reward = {"type": "verifier", "service": {"num_cpus": 0.5}}
    return tiny_config(root, reward=reward, route_prefix="/generation", num_cpus=0.5)


@pytest.fixture(scope="module")
def service(ray_session: None, config: GenerationServeConfig) -> Iterator[GenerationServiceAddress]:
    yield start_generation_service(config, token_book())
    stop_generation_service(config)


def http(service: GenerationServiceAddress, name: str = "alice") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {TOKENS[name]}"}
    return httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60)


def openai_client(service: GenerationServiceAddress, token: str = TOKENS["alice"]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=token, max_retries=0)


async def running(client: httpx.AsyncClient) -> int:
    """Completions that the engine works on."""
    return sum((await client.get("/v1/adapters")).json()["held"].values())


def test_openais_client_reads_every_answer(service: GenerationServiceAddress) -> None:
    client = openai_client(service)
    assert [model.id for model in client.models.list()] == ["base", "first"]
    common: dict[str, Any] = {"model": "first", "prompt": PROMPT, "n": 3, "seed": 8, "max_tokens": 20}
    whole = client.completions.create(**common, logprobs=1)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None
    texts = ["", "", ""]
    usage = None
    with client.completions.create(**common, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert usage == whole.usage
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    chat = client.chat.completions.create(model="first", messages=messages, seed=8, max_tokens=20)
    said = ""
    for chunk in client.chat.completions.create(
        model="first", messages=messages, seed=8, max_tokens=20, stream=True
    ):
        said += chunk.choices[0].delta.content or ""
    assert said == chat.choices[0].message.content


def test_openais_client_understands_every_refusal(service: GenerationServiceAddress) -> None:
    client = openai_client(service)
    with pytest.raises(openai.NotFoundError, match=r"'gpt-9'.* base, first"):
        client.completions.create(model="gpt-9", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match=r"'presence_penalty' is 0\.5"):
        client.completions.create(model="base", prompt=PROMPT, presence_penalty=0.5)
    with pytest.raises(openai.BadRequestError, match="48"):
        client.completions.create(model="base", prompt="1" * 80)
    with pytest.raises(openai.AuthenticationError):
        openai_client(service, "guessed").models.list()


async def test_candidates_are_scored_by_the_services_own_reward(service: GenerationServiceAddress) -> None:
    async with http(service) as client:
        body = {"prompt": PROMPT, "k": 4, "max_tokens": 12, "selector": "reward", "seed": 1}
        answer = (await client.post("/v1/candidates", json=body)).json()
        scores = [each["score"] for each in answer["candidates"]]
        assert set(scores) <= {0.0, 1.0}
        assert answer["selected_index"] == scores.index(max(scores))
        assert [each["cluster"] is None for each in answer["candidates"]] == [score == 0 for score in scores]
        later = (await client.post("/v1/candidates", json={**body, "selector": "first"})).json()
        assert {each["score"] for each in later["candidates"]} == {None}
        scored = (await client.post(f"/v1/candidates/{later['id']}/scores")).json()
        assert [each["score"] for each in scored["answer"]["candidates"]] == scores
        stored = (await client.get(f"/v1/candidates/{later['id']}")).json()
        assert stored["answer"] == scored["answer"]
    app = service.app_name.removesuffix("-generation")
    root = service.url.removesuffix("/generation")
    assert httpx.get(f"{root}/{app}/reward/v1/info").status_code == 404  # it would answer without a token


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_stops_the_engine(
    service: GenerationServiceAddress, stream: bool
) -> None:
    body = {
        "model": "first", "prompt": PROMPT, "n": 24, "temperature": 0, "max_tokens": 400, "stream": stream,
    }  # fmt: skip
    async with http(service, "root") as watching, http(service) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json=body))
        async with asyncio.timeout(PATIENCE_S):
            while await running(watching) < 24:
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(3):  # 24 x 400 tokens take longer
            while await running(watching):
                await asyncio.sleep(0.01)


async def test_versions_of_a_training_run_are_followed(
    service: GenerationServiceAddress, config: GenerationServeConfig
) -> None:
    root = Path(config.adapter_roots[0])
    digest = base_fingerprint(root / "model")

    def publish(version: int) -> None:
        save_adapter(
            adapter_model(10 + version, digest),
            root / "run" / "versions" / str(version),
            {"base_sha256": digest},
        )

    async def latest(client: httpx.AsyncClient) -> Any:
        answer = await client.get("/v1/models/latest")
        return answer.json()["polyray"]["version"] if answer.status_code == 200 else None

    publish(0)
    async with http(service, "root") as client:
        loaded = await client.post("/v1/adapters", json={"follow": str(root / "run")})
        assert loaded.status_code == 201 and loaded.json()["models"][0]["id"] == "policy-v0"
        # A long completion keeps the version that it began with.
        body = {"model": "latest", "prompt": PROMPT, "max_tokens": 300, "temperature": 0, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as old:
            lines = old.aiter_lines()
            await anext(lines)
            publish(1)
            async with asyncio.timeout(PATIENCE_S):
                while await latest(client) != 1:
                    await asyncio.sleep(0.05)
            rest = [line async for line in lines]
        assert rest[-2] == "data: [DONE]" and all(
            "policy-policy-v0-" in line for line in rest if '"id"' in line
        )
        assert (await client.delete("/v1/adapters/policy")).status_code == 200
        assert await latest(client) is None


@pytest.mark.chaos
async def test_killed_replica_loses_no_acknowledged_pick(
    service: GenerationServiceAddress, config: GenerationServeConfig
) -> None:
    """SIGKILL while six clients pick; adapters and keys survive."""
    root = Path(config.adapter_roots[0])
    async with http(service, "root") as admin, http(service) as client:
        added = await admin.post("/v1/adapters", json={"path": str(root / "adapter-2"), "name": "second"})
        assert added.status_code == 201
        body = {"prompt": PROMPT, "k": 2, "max_tokens": 4}
        candidates = (await client.post("/v1/candidates", json=body)).json()["id"]
        acknowledged: dict[str, str] = {}
        stop = asyncio.Event()

        async def pick(person: int) -> None:
            number = 0
            while not stop.is_set():
                key = f"{person}-{number}"
                chosen = {"candidates_id": candidates, "selected_index": 0, "client_key": key}
                try:
                    answer = await client.post("/v1/selections", json=chosen)
                except httpx.HTTPError:
                    continue  # the same key again
                if answer.status_code in (200, 201):
                    acknowledged[key] = answer.json()["id"]
                    number += 1
                else:
                    # 408: Serve's proxy waited for a replica as long as it may.
                    assert answer.status_code == 408 or answer.status_code >= 500, answer.text

        picking = [asyncio.create_task(pick(person)) for person in range(6)]
        process = (await client.get("/v1/info")).json()["process"]
        while len(acknowledged) < 30:
            await asyncio.sleep(0.01)
        os.kill(process, signal.SIGKILL)
        before = len(acknowledged)
        async with asyncio.timeout(PATIENCE_S):
            while len(acknowledged) < before + 30:
                await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*picking)
        models = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["base", "first", "second"]
        assert (await client.get("/v1/info")).json()["process"] != process
        assert (await admin.delete("/v1/adapters/second")).status_code == 200
    store = SelectionStore(config.database)
    try:
        for key, selection_id in acknowledged.items():
            record, is_new = store.add_selection(candidates, owner="alice", selected_index=0, client_key=key)
            assert (record.id, is_new) == (selection_id, False)
    finally:
        store.close()
