"""All middlewares before a small application: their order, log and metrics."""

from __future__ import annotations

import json

from fastapi import FastAPI, Request

from polyray.serving.generation.middleware import add_middleware
from polyray.serving.generation.rate_limit import RateLimiter
from polyray.serving.http_errors import install_error_handlers
from tests.unit.serving.generation.operation_fixtures import (
    ADMIN,
    BOOK,
    USER,
    Clock,
    Counted,
    ask,
    bearer,
    logged_lines,
)


def guarded(metrics: Counted) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)
    add_middleware(
        app,
        BOOK,
        RateLimiter(requests_per_minute=60, burst=2, clock=Clock()),
        needs_admin=lambda method, path: path.startswith("/v1/adapters"),
        exempt_routes=frozenset({"/healthz"}),
        max_body_bytes=100,
        metrics=metrics,
    )

    async def size(request: Request) -> int:
        return len(await request.body())

    app.get("/healthz")(size)
    app.post("/v1/adapters/{name}")(size)
    app.post("/echo")(size)
    return app


async def test_middlewares_refuse_in_their_order_and_are_counted_and_logged() -> None:
    metrics = Counted()
    app = guarded(metrics)
    large = b"x" * 101
    adapter = "/v1/adapters/{name}"
    asked = [
        ("POST", "/echo", None, large, "/echo", 401, None, "token"),
        ("POST", "/v1/adapters/a", USER, large, adapter, 403, "default", "scope"),
        ("POST", "/echo", USER, large, "/echo", 413, "default", None),
        ("POST", "/echo", USER, b"fits", "/echo", 200, "default", None),
        ("POST", "/echo", USER, large, "/echo", 429, "default", "rate_limit"),
        ("POST", "/v1/adapters/a", ADMIN, b"fits", adapter, 200, "admin", None),
        ("GET", "/healthz", USER, b"", "/healthz", 200, "default", None),
        ("GET", "/nothing", ADMIN, b"", "other", 404, "admin", None),
    ]
    with logged_lines() as lines:
        for method, path, token, content, *_ in asked:
            answer = await ask(app, method, path, headers=bearer(token), content=content)
            assert answer.status_code == 200 or set(answer.json()) == {"error"}
    keys = ("route", "status", "caller", "rejected")
    seen = [tuple(json.loads(line)[key] for key in keys) for line in lines]
    assert seen == [each[4:] for each in asked]
    assert [(route, status) for route, status, _ in metrics.requests] == [each[4:6] for each in asked]
    assert metrics.rejected == ["token", "scope", "rate_limit"]
