"""All middlewares before a small application: their order, log and metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request

from polyray.serving.generation.access_log import RejectReason, logger
from polyray.serving.generation.middleware import add_middleware
from polyray.serving.generation.rate_limit import RateLimiter
from polyray.serving.http_errors import install_error_handlers
from tests.unit.serving.generation.operation_fixtures import ADMIN, BOOK, USER, ask, bearer

Counts = list[tuple[str, object]]


class Counted:
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def request(self, route: str, status: int, seconds: float) -> None:
        self._counts.append((route, status))

    def reject(self, reason: RejectReason) -> None:
        self._counts.append(("rejected", reason))


@pytest.fixture
def lines() -> Iterator[list[dict]]:
    written: list[dict] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(json.loads(record.getMessage()))  # type: ignore[method-assign]
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def guarded(counts: Counts) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)
    add_middleware(
        app,
        BOOK,
        RateLimiter(requests_per_minute=60, burst=2, clock=lambda: 0.0),
        needs_admin=lambda method, path: path.startswith("/v1/adapters"),
        exempt_routes=frozenset({"/healthz"}),
        max_body_bytes=100,
        metrics=Counted(counts),
    )

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.post("/v1/adapters/{name}")
    async def adapters(name: str, request: Request) -> int:
        return len(await request.body())

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


async def test_refusals_follow_the_order_of_checks_and_are_counted_and_logged(lines: list[dict]):
    counts: Counts = []
    app = guarded(counts)
    large = b"x" * 101
    asked = [
        ("POST", "/echo", {}, large, 401),
        ("POST", "/v1/adapters/a", bearer(USER), large, 403),
        ("POST", "/echo", bearer(USER), large, 413),
        ("POST", "/echo", bearer(USER), b"fits", 200),
        ("POST", "/echo", bearer(USER), large, 429),
        ("POST", "/v1/adapters/a", bearer(ADMIN), b"fits", 200),
        ("GET", "/healthz", bearer(USER), b"", 200),
        ("GET", "/nothing", bearer(ADMIN), b"", 404),
    ]
    for method, path, headers, content, status in asked:
        answer = await ask(app, method, path, headers=headers, content=content)
        assert answer.status_code == status, (method, path)
        assert status == 200 or set(answer.json()) == {"error"}
    seen = [(line["route"], line["status"], line["caller"], line["rejected"]) for line in lines]
    assert seen == [
        ("/echo", 401, None, "token"),
        ("/v1/adapters/{name}", 403, "default", "scope"),
        ("/echo", 413, "default", None),
        ("/echo", 200, "default", None),
        ("/echo", 429, "default", "rate_limit"),
        ("/v1/adapters/{name}", 200, "admin", None),
        ("/healthz", 200, "default", None),
        ("other", 404, "admin", None),
    ]
    assert counts == [
        ("/echo", 401),
        ("rejected", "token"),
        ("/v1/adapters/{name}", 403),
        ("rejected", "scope"),
        ("/echo", 413),
        ("/echo", 200),
        ("/echo", 429),
        ("rejected", "rate_limit"),
        ("/v1/adapters/{name}", 200),
        ("/healthz", 200),
        ("other", 404),
    ]
