"""One line of JSON per request on the logger "polyray.access", written when its answer, or its stream, has ended.

    {"time": "2026-03-01T12:00:00.250Z", "method": "POST", "route": "/v1/candidates", "path": "/v1/candidates",
     "status": 200, "duration_ms": 81.4, "caller": "alice", "model": "policy-v17", "candidates_id": "cand-1",
     "prompt_tokens": 9, "completion_tokens": 48, "disconnected": false, "rejected": null, "error": null}

`time` is that of arrival, UTC; `route` the template, "other" for what no route matches; `path` has no query. The
handlers fill `request.state.access`, in a stream until its end. `status` is 499 where nothing was answered because
the client had gone or Serve ended the request, 500 where an exception came first; `error` names its type. `prompt`
is there with log_prompts alone. No header is ever read, so no token is written; JSON's escapes keep what callers
send from looking like a line of its own. Serve's proxy answers some requests itself (408, 429, 503): not here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("polyray.access")

RejectReason = Literal["token", "scope", "rate_limit", "queue_full", "deadline"]
"""401, 403, 429 of one caller's limit, 429 of a full queue, 504."""

OTHER_ROUTE = "other"
CLIENT_CLOSED_REQUEST = 499
MAX_FIELD_CHARS = 256
"""Largest length of a field that callers write; a prompt is kept whole if it is logged."""


@dataclass(slots=True)
class Access:
    """The handlers' facts about one request: `request.state.access`.

    Example:
        Access(model="policy-v17", candidates_id="cand-1", prompt_tokens=9, completion_tokens=48)
    """

    model: str | None = None
    """Model under its served name, not under the requested one."""
    candidates_id: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """Tokens of all completions together; those of a cancelled request too."""
    disconnected: bool = False
    """Set it where a handler finds that its client has gone; the middleware sees what ASGI tells."""
    rejected: RejectReason | None = None
    prompt: str | None = field(default=None, repr=False)


class RequestMetrics(Protocol):
    """Counters of every request; implemented by GenerationMetrics."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request that has ended."""
        ...

    def reject(self, reason: RejectReason) -> None:
        """One request that was not served."""
        ...


def note_rejected(scope: Scope, reason: RejectReason) -> None:
    """Note a rejection, for middlewares; a handler sets `request.state.access.rejected`."""
    access = scope.get("state", {}).get("access")
    if access is not None:
        access.rejected = reason


def install_access_log() -> None:
    """Write lines to stderr unchanged, independent of other loggers; a second call changes nothing."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class AccessLogMiddleware:
    """Times, counts and logs every HTTP request; the outermost middleware, pure ASGI.

    `routes` are the application's (`app.routes`; those that are added later count too); `clock` gives Unix seconds,
    `timer` those that durations are measured with.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[BaseRoute],
        metrics: RequestMetrics | None = None,
        log_prompts: bool = False,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._log_prompts = log_prompts
        self._clock = clock
        self._timer = timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on; its line is written also where it fails or is cancelled."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = Access()
        scope.setdefault("state", {})["access"] = access
        exchange = _Exchange(access, receive, send)
        arrived, started = self._clock(), self._timer()
        error: str | None = None
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException as caught:
            error = type(caught).__name__
            if isinstance(caught, (asyncio.CancelledError, ClientDisconnect)) and not exchange.complete:
                access.disconnected = True
            raise
        finally:
            self._write(scope, access, exchange.status, error, arrived, self._timer() - started)

    def _write(
        self,
        scope: Scope,
        access: Access,
        begun: int | None,
        error: str | None,
        arrived: float,
        seconds: float,
    ) -> None:
        route = _template(scope, self._routes)
        status = begun or (CLIENT_CLOSED_REQUEST if access.disconnected else 500)
        if self._metrics is not None:
            self._metrics.request(route, status, seconds)
            if access.rejected is not None:
                self._metrics.reject(access.rejected)
        if not logger.isEnabledFor(logging.INFO):
            return
        caller = scope["state"].get("caller")
        noted = asdict(access)
        prompt = noted.pop("prompt")
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(arrived, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "method": scope["method"],
            "route": route,
            "path": scope["path"],
            "status": status,
            "duration_ms": round(1000 * seconds, 3),
            "caller": None if caller is None else caller.name,
            **noted,
            "error": error,
        }
        line = {
            key: value[:MAX_FIELD_CHARS] if isinstance(value, str) else value for key, value in fields.items()
        }
        if self._log_prompts and prompt is not None:
            line["prompt"] = prompt
        # Printable ASCII: no line break and no escape sequence passes; JSON itself leaves only DEL as it is.
        logger.info("%s", json.dumps(line).replace("\x7f", "\\u007f"))


@dataclass(slots=True)
class _Exchange:
    """Messages between server and application for one request."""

    access: Access
    server_receive: Receive
    server_send: Send
    status: int | None = None
    complete: bool = False

    async def receive(self) -> Message:
        """Receive from the server; a client that goes before its answer is complete is noted."""
        message = await self.server_receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self.access.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Send to the server, which raises OSError if the client has gone."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        try:
            await self.server_send(message)
        except OSError:
            self.access.disconnected = True
            raise


def _template(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """The path of the route that answered, or (where a middleware did) would have."""
    matched = scope.get("route")
    if matched is None:
        matched = next((route for route in routes if route.matches(scope)[0] is not Match.NONE), None)
    return getattr(matched, "path", OTHER_ROUTE)
