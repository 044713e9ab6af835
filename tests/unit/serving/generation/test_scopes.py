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

    async def name_of_caller(request: Request) -> str | None:
        return getattr(getattr(request.state, "caller", None), "name", None)

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
async def test_scope_opens_routes(
    method: str, path: str, without: int, user: int, admin: int, root_path: str
) -> None:
    app = guarded()
    names = {None: None, "wrong": None, USER: "default", ALICE: "alice", ADMIN: "admin"}
    for token, status in ((None, without), ("wrong", without), (USER, user), (ALICE, user), (ADMIN, admin)):
        answer = await ask(app, method, root_path + path, root_path, headers=bearer(token))
        assert answer.status_code == status, token
        if status == 200 and "openapi" not in path:
            assert answer.json() == names[token]


async def test_scope_without_tokens_admits_every_caller() -> None:
    app = guarded(TokenBook())
    assert (await ask(app, "DELETE", "/v1/adapters/a")).json() == "anonymous"
    several = [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    assert await ask_raw(app, several) == (200, b'"anonymous"')


async def test_scope_refusal_has_the_common_shape() -> None:
    answer = await ask(guarded(), "GET", "/v1/models", headers=bearer("gu3ssed"))
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert "'Authorization: Bearer TOKEN'" in error["message"] and "gu3ssed" not in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    for token, message in (
        (ALICE, "scope admin.*'alice' .*scope user"),
        (USER, "POLYRAY_ADMIN_TOKEN .*tokens_file"),
    ):
        app = guarded(BOOK if token == ALICE else book_of(USER))
        error = (await ask(app, "POST", "/v1/adapters", headers=bearer(token))).json()["error"]
        assert re.search(message, error["message"]) and error["code"] == "insufficient_permissions"


GOOD = f"Bearer {USER}".encode()


@pytest.mark.parametrize(
    ("path", "values", "status"),
    [
        *(
            (path, [], 401)
            for path in ("//", "//healthz", "/./healthz", "/healthz\x00", "/v1/../healthz", "")
        ),
        ("/v1/models", [GOOD], 200),
        *(
            ("/v1/models", [value], 401)
            for value in (b"", b"Bearer t\xc3\xb6ken", b"\xff\xfe", b"Bearer " + b"x" * 10**6)
        ),
        ("/v1/models", [GOOD, GOOD], 401),
        ("/v1/models", [b"Bearer wrong", GOOD], 401),
    ],
)
async def test_scope_refuses_hostile_paths_and_headers(path: str, values: list[bytes], status: int) -> None:
    answered, body = await ask_raw(guarded(), [(b"authorization", value) for value in values], path)
    assert answered == status and USER.encode() not in body
    assert (b"2 Authorization headers" in body) == (len(values) > 1)


async def test_scope_closes_a_websocket_without_a_token() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def accepting(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "caller": scope["state"]["caller"].name})

    middleware = ScopeMiddleware(accepting, BOOK, needs_admin)
    for headers in ([], [(b"authorization", f"Bearer {USER}".encode())]):
        await middleware({"type": "websocket", "path": "/v1/models", "headers": headers}, receive, send)
    closed = {"type": "websocket.close", "code": 1008}
    assert sent == [closed, {"type": "websocket.accept", "caller": "default"}]
