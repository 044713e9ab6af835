"""Bearer tokens, error shapes and body limits, on a small application without Ray."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import SecretStr

from polyray.errors import ConfigError, RewardError
from polyray.serving.auth import TOKEN_VARIABLE, BearerTokenMiddleware, token_from_environment
from polyray.serving.body_limit import BodyLimitMiddleware
from polyray.serving.http_errors import install_error_handlers

TOKEN = "s3cret-token"


def application() -> FastAPI:
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

    return app


def guarded(token: str | None = TOKEN) -> FastAPI:
    app = application()
    app.add_middleware(BodyLimitMiddleware, max_bytes=100)
    app.add_middleware(BearerTokenMiddleware, token=None if token is None else SecretStr(token))
    return app


async def ask(app: FastAPI, method: str, path: str, root_path: str = "", **options) -> httpx.Response:
    transport = httpx.ASGITransport(app=app, root_path=root_path, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
async def test_only_the_token_opens_a_route(header: str | None, status: int):
    headers = {} if header is None else {"Authorization": header}
    assert (await ask(guarded(), "POST", "/echo", headers=headers)).status_code == status


async def test_a_refusal_has_the_common_shape_and_names_no_token():
    answer = await ask(guarded(), "POST", "/echo")
    error = answer.json()["error"]
    message = error.pop("message")
    assert re.search("'Authorization: Bearer TOKEN' .*POLYRAY_API_TOKEN", message) and TOKEN not in message
    assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_only_health_is_open_under_any_prefix():
    assert (await ask(guarded(), "GET", "/healthz")).status_code == 200
    assert (await ask(guarded(), "GET", "/run/reward/healthz", root_path="/run/reward")).status_code == 200
    for path in ("/", "/unknown", "/docs", "/openapi.json", "/echo/healthz", "/healthz/", "//healthz"):
        assert (await ask(guarded(), "GET", path)).status_code == 401, path


async def test_service_without_a_token_is_open():
    assert (await ask(guarded(token=None), "POST", "/echo")).status_code == 200


async def test_a_websocket_without_the_token_is_closed():
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "websocket.connect"}

    middleware = BearerTokenMiddleware(application(), SecretStr(TOKEN))
    await middleware({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert token_from_environment() is None
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    token = token_from_environment()
    assert token is not None and token.get_secret_value() == TOKEN and TOKEN not in repr(token)


@pytest.mark.parametrize("value", ["", " ", "two words", "line\n", "tökén"])
def test_a_token_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv(TOKEN_VARIABLE, value)
    with pytest.raises(ConfigError, match="POLYRAY_API_TOKEN"):
        token_from_environment()


@pytest.mark.parametrize(
    ("method", "path", "status", "message", "kind", "code"),
    [
        ("GET", "/nope", 404, "GET /nope", "invalid_request_error", "not_found"),
        ("GET", "/echo", 405, "GET /echo", "invalid_request_error", "method_not_allowed"),
        ("GET", "/refuse", 500, "the reward is closed; come back later", "server_error", "RewardError"),
        (
            "GET",
            "/defect",
            500,
            "internal error",
            "server_error",
            "internal_error",
        ),
    ],
)
async def test_every_error_has_the_same_shape(method, path, status, message, kind, code):
    answer = await ask(application(), method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert message in error.pop("message")
    assert error == {"type": kind, "param": None, "code": code}


async def test_a_wrong_parameter_is_named():
    answer = await ask(application(), "POST", "/echo?count=many")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "query.count" and error["code"] == "invalid_request"
    assert error["message"].startswith("query.count: Input should be a valid integer")


async def test_bodies_over_the_limit_are_refused_announced_or_not():
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 50

    app = guarded(token=None)
    assert (await ask(app, "POST", "/echo", content=b"x" * 100)).json() == {"bytes": 100}
    announced = await ask(app, "POST", "/echo", content=b"x" * 101)
    streamed = await ask(app, "POST", "/echo", content=chunks())
    for answer in (announced, streamed):
        assert answer.status_code == 413
        error = answer.json()["error"]
        assert "100 bytes" in error["message"]
        assert error["code"] == "request_too_large"
