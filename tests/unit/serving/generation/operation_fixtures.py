"""Three tokens, their book, a log of lines, and ways to ask an application in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.types import ASGIApp

from polyray.serving.generation.access_log import AccessLogMiddleware, RejectReason, logger
from polyray.serving.generation.tokens import Caller, KnownToken, TokenBook

USER, ADMIN, ALICE = "us3r-token", "4dmin-token", "al1ce-token"
CALLERS = {
    USER: Caller("default", "user"),
    ADMIN: Caller("admin", "admin"),
    ALICE: Caller("alice", "user", requests_per_minute=30.0),
}


def book_of(*tokens: str) -> TokenBook:
    return TokenBook(tuple(KnownToken.of(CALLERS[token], SecretStr(token)) for token in tokens))


BOOK = book_of(USER, ADMIN, ALICE)


class Clock:
    """Seconds that a test sets."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Counted:
    """Metrics that remember requests and refusals."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int, float]] = []
        self.rejected: list[str] = []

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests.append((route, status, seconds))

    def reject(self, reason: RejectReason) -> None:
        self.rejected.append(reason)


@contextmanager
def logged_lines() -> Iterator[list[str]]:
    """Lines that the access log writes."""
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


async def ask(
    app: FastAPI | AccessLogMiddleware, method: str, path: str, root_path: str = "", **options: Any
) -> httpx.Response:
    transport = httpx.ASGITransport(app=app, root_path=root_path, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


async def ask_raw(
    app: ASGIApp, headers: list[tuple[bytes, bytes]], path: str = "/v1/models"
) -> tuple[int, bytes]:
    """(status, body) of a GET with headers that an HTTP client would not send."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({**SCOPE, "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/v1/models",
    "query_string": b"",
    "root_path": "",
    "headers": [],
    "server": ("test", 80),
    "client": ("test", 1),
}
