"""Access of callers to routes, on a small application without Ray."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI, Request

from polyray.serving.generation.scopes import ScopeMiddleware
from polyray.serving.generation.tokens import TokenBook
from polyray.serving.http_errors import install_error_handlers
from tests.unit.serving.generation.operation_fixtures import (
    ADMIN,
    ALICE,
    BOOK,
    USER,
    ask,
    ask_raw,
    bearer,
    book_of,
)

EXEMPT = frozenset({"/", "/healthz"})


def needs_admin(method: str, path: str) -> bool:
    return path.startswith("/v1/adapters") and method != "GET"


def guarded(book: TokenBook = BOOK) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)

    async def name_of_caller(request: Request) -> dict[str, str | None]:
        caller = getattr(request.state, "caller", None)
        return {"caller": None if caller is None else caller.name}

    for path in ("/", "/healthz", "/v1/models", "/v1/adapters"):
        app.get(path)(name_of_caller)
    app.post("/v1/adapters")(name_of_caller)
    app.delete("/v1/adapters/{name}")(name_of_caller)
    app.add_middleware(ScopeMiddleware, book=book, needs_admin=needs_admin, exempt_routes=EXEMPT)
    return app


@pytest.mark.parametrize(
    ("method", "path", "without", "user", "admin"),
    [
        ("GET", "/", 200, 200, 200),
        ("GET", "/healthz", 200, 200, 200),
        ("GET", "/v1/models", 401, 200, 200),
        ("GET", "/v1/adapters", 401, 200, 200),
        ("POST", "/v1/adapters", 401, 403, 200),
        ("DELETE", "/v1/adapters/a", 401, 403, 200),
        ("PUT", "/v1/adapters/a", 401, 403, 405),
        ("POST", "/v1/adapters/", 401, 403, 404),
        ("GET", "/healthz/", 401, 404, 404),
        ("GET", "/openapi.json", 401, 200, 200),
        ("POST", "/healthz", 405, 405, 405),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/run/generation"])
async def test_scopes_open_routes(method, path, without, user, admin, root_path):
    app = guarded()
    for token, status in ((None, without), ("wrong", without), (USER, user), (ALICE, user), (ADMIN, admin)):
        headers = {} if token is None else bearer(token)
        answer = await ask(app, method, root_path + path, root_path, headers=headers)
        assert answer.status_code == status, token


@pytest.mark.parametrize("path", ["//", "//healthz", "/./healthz", "/healthz\x00", "/v1/../healthz", ""])
async def test_only_the_exact_path_is_exempt(path: str):
    assert (await ask_raw(guarded(), [], path))[0] == 401


async def test_handlers_find_the_caller():
    app = guarded()
    assert (await ask(app, "GET", "/v1/models", headers=bearer(ALICE))).json() == {"caller": "alice"}
    assert (await ask(app, "GET", "/", headers=bearer(ADMIN))).json() == {"caller": "admin"}
    assert (await ask(app, "GET", "/", headers=bearer("wrong"))).json() == {"caller": None}
    assert (await ask(app, "GET", "/")).json() == {"caller": None}


async def test_service_without_tokens_is_open():
    app = guarded(TokenBook())
    assert (await ask(app, "DELETE", "/v1/adapters/a")).json() == {"caller": "anonymous"}
    assert (await ask(app, "POST", "/v1/adapters", headers=bearer("any"))).json() == {"caller": "anonymous"}
    several = [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    assert await ask_raw(app, several) == (200, b'{"caller":"anonymous"}')


async def test_refusals_have_the_common_shape():
    answer = await ask(guarded(), "GET", "/v1/models", headers=bearer("gu3ssed"))
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert "'Authorization: Bearer TOKEN'" in error["message"] and "gu3ssed" not in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    answer = await ask(guarded(), "POST", "/v1/adapters", headers=bearer(ALICE))
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert re.search("scope admin.*'alice' .*scope user", error.pop("message"))
    assert error == {"type": "invalid_request_error", "param": None, "code": "insufficient_permissions"}


async def test_service_without_admins_names_the_variable_of_the_admin_token():
    answer = await ask(guarded(book_of(USER)), "POST", "/v1/adapters", headers=bearer(USER))
    assert answer.status_code == 403
    assert re.search("admin.* POLYRAY_ADMIN_TOKEN .*tokens_file", answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([], 401),
        ([b""], 401),
        ([b"Bearer t\xc3\xb6ken"], 401),
        ([b"\xff\xfe"], 401),
        ([b"Bearer " + b"x" * 10**6], 401),
        ([f"Bearer {USER}".encode()], 200),
        ([f"Bearer {USER}".encode()] * 2, 401),
        ([f"Bearer {USER}".encode(), b""], 401),
        ([b"Bearer wrong", f"Bearer {USER}".encode()], 401),
    ],
)
async def test_hostile_headers(values: list[bytes], status: int):
    answered, body = await ask_raw(guarded(), [(b"authorization", value) for value in values])
    assert answered == status
    assert USER.encode() not in body
    if len(values) > 1:
        assert b'"2 Authorization headers; send one"' in body


async def test_a_websocket_needs_a_token_too():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def accepting(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "caller": scope["state"]["caller"].name})

    middleware = ScopeMiddleware(accepting, BOOK, needs_admin)
    await middleware({"type": "websocket", "path": "/v1/models", "headers": []}, receive, send)
    headers = [(b"authorization", f"Bearer {USER}".encode())]
    await middleware({"type": "websocket", "path": "/v1/models", "headers": headers}, receive, send)
    assert sent == [
        {"type": "websocket.close", "code": 1008},
        {"type": "websocket.accept", "caller": "default"},
    ]
