"""Bearer tokens, error shapes and body limits, on a small application without Ray."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import SecretStr

from polyray.errors import ConfigError, RewardError
from polyray.serving.auth import TOKEN_VARIABLE, BearerTokenMiddleware, token_from_environment
from polyray.serving.body_limit import BodyLimitMiddleware
from polyray.serving.http_errors import install_error_handlers
from tests.unit.serving.reward_service_fixtures import ask

TOKEN = "s3cret-token"


def guarded(token: str | None = TOKEN) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/echo")
    async def echo(request: Request, count: int = 0) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/refuse")
    async def refuse() -> None:
        raise RewardError("the reward is closed; come back later")

    @app.get("/defect")
    async def defect() -> None:
        raise KeyError(TOKEN)

    app.add_middleware(BodyLimitMiddleware, max_bytes=100)
    app.add_middleware(BearerTokenMiddleware, token=None if token is None else SecretStr(token))
    return app


@pytest.mark.parametrize(
    ("header", "token", "status"),
    [
        (f"Bearer {TOKEN}", TOKEN, 200),
        (None, None, 200),
        (None, TOKEN, 401),
        (f"Bearer {TOKEN}x", TOKEN, 401),
        (f"Basic {TOKEN}", TOKEN, 401),
    ],
)
async def test_bearer_token_opens_a_route(header: str | None, token: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = await ask(guarded(token), "POST", "/echo", headers=headers)
    assert answer.status_code == status
    if status == 401:
        error = answer.json()["error"]
        message = error.pop("message")
        assert re.search("'Authorization: Bearer TOKEN' .*POLYRAY_API_TOKEN", message)
        assert TOKEN not in message and answer.headers["www-authenticate"] == "Bearer"
        assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}


async def test_bearer_token_is_not_needed_for_health_under_any_prefix() -> None:
    assert (await ask(guarded(), "GET", "/healthz")).status_code == 200
    assert (await ask(guarded(), "GET", "/run/reward/healthz", root_path="/run/reward")).status_code == 200
    for path in ("/", "/unknown", "/openapi.json", "/echo/healthz", "/healthz/", "//healthz"):
        assert (await ask(guarded(), "GET", path)).status_code == 401, path


async def test_bearer_token_missing_closes_a_websocket() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    middleware = BearerTokenMiddleware(FastAPI(), SecretStr(TOKEN))
    await middleware({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert token_from_environment() is None
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    token = token_from_environment()
    assert token is not None and token.get_secret_value() == TOKEN and TOKEN not in repr(token)
    for value in ("", " ", "two words", "line\n", "tökén"):
        monkeypatch.setenv(TOKEN_VARIABLE, value)
        with pytest.raises(ConfigError, match="POLYRAY_API_TOKEN"):
            token_from_environment()


@pytest.mark.parametrize(
    ("method", "path", "status", "message", "kind", "code", "param"),
    [
        ("GET", "/nope", 404, "GET /nope", "invalid_request_error", "not_found", None),
        ("GET", "/echo", 405, "GET /echo", "invalid_request_error", "method_not_allowed", None),
        (
            "POST",
            "/echo?count=many",
            400,
            "valid integer",
            "invalid_request_error",
            "invalid_request",
            "query.count",
        ),
        ("GET", "/refuse", 500, "the reward is closed; come back later", "server_error", "RewardError", None),
        ("GET", "/defect", 500, "internal error", "server_error", "internal_error", None),
    ],
)
async def test_error_has_the_common_shape(
    method: str, path: str, status: int, message: str, kind: str, code: str, param: str | None
) -> None:
    answer = await ask(guarded(None), method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert message in error["message"] and TOKEN not in error.pop("message")
    assert error == {"type": kind, "param": param, "code": code}


async def test_body_over_the_limit_is_refused_announced_or_not() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 50

    app = guarded(None)
    assert (await ask(app, "POST", "/echo", content=b"x" * 100)).json() == {"bytes": 100}
    answers: list[httpx.Response] = [
        await ask(app, "POST", "/echo", content=content) for content in (b"x" * 101, chunks())
    ]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (413, "request_too_large")
        assert "100 bytes" in error["message"]
