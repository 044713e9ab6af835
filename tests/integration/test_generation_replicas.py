"""Two replicas of the generation service with one database, on Ray Serve.

The database is a SQLite file, and the server that POLYRAY_TEST_DATABASE names (a URL of SQLAlchemy, of an empty
database), where it is set.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyray.config.generation import GenerationServeConfig
from polyray.serving.generation.run import (
    GenerationServiceAddress,
    start_generation_service,
    stop_generation_service,
)
from tests.unit.serving.generation.tiny_service import PROMPT, TOKENS, tiny_config, token_book

pytestmark = pytest.mark.slow
SERVER = os.environ.get("POLYRAY_TEST_DATABASE")
PATIENCE_S = 120
REQUESTS = 40
"""Serve chooses a replica at random: that one of two is never asked has the chance 2 ** -39."""


@pytest.fixture(scope="module", params=["sqlite", "server"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GenerationServeConfig:
    root = tmp_path_factory.mktemp("replicas")
    changes: dict[str, Any] = {"route_prefix": "/replicas", "num_cpus": 0.5, "num_replicas": 2}
    if request.param == "server":
        if SERVER is None:
            pytest.skip("POLYRAY_TEST_DATABASE names no database server")
        changes["database"] = SERVER
    return tiny_config(root, name="replicas", follow_interval_s=60.0, **changes)


@pytest.fixture(scope="module")
def service(ray_session: None, config: GenerationServeConfig) -> Iterator[GenerationServiceAddress]:
    yield start_generation_service(config, token_book())
    stop_generation_service(config)


@asynccontextmanager
async def client_of(service: GenerationServiceAddress, name: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKENS[name]}", "Connection": "close"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=PATIENCE_S) as client:
        yield client


async def test_adapter_loaded_at_one_replica_is_served_by_all(
    service: GenerationServiceAddress, config: GenerationServeConfig
) -> None:
    """The replicas serve it before their look of every minute."""
    async with client_of(service, "root") as client:
        answers = await asyncio.gather(*(client.get("/v1/info") for _ in range(REQUESTS)))
        assert len({answer.json()["process"] for answer in answers}) == 2
        directory = str(Path(config.adapter_roots[0]) / "adapter-2")
        added = await client.post("/v1/adapters", json={"path": directory, "name": "second"})
        assert added.status_code == 201
        body = {"model": "second", "prompt": PROMPT, "seed": 3, "max_tokens": 8}
        answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(REQUESTS)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        unknown = await client.post("/v1/completions", json={**body, "model": "third"})
        assert unknown.status_code == 404


async def test_candidates_of_one_replica_are_picked_at_any_and_counted_once(
    service: GenerationServiceAddress,
) -> None:
    async with client_of(service, "alice") as client:
        body = {"prompt": PROMPT, "k": 3, "max_tokens": 6, "seed": 5}
        shown = (await client.post("/v1/candidates", json=body)).json()["id"]
        picked = {"candidates_id": shown, "selected_index": 2, "client_key": "page-1"}
        answers = await asyncio.gather(*(client.post("/v1/selections", json=picked) for _ in range(REQUESTS)))
        assert sorted({answer.status_code for answer in answers}) == [200, 201]
        assert [answer.status_code for answer in answers].count(201) == 1
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await client.post("/v1/selections", json={**picked, "selected_index": 1})
        assert other.status_code == 409
        stored = await asyncio.gather(*(client.get(f"/v1/candidates/{shown}") for _ in range(REQUESTS)))
        assert {answer.json()["selection"]["selected_index"] for answer in stored} == {2}
