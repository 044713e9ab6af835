"""Refuses request bodies over a limit before they fill a replica's memory; a pure ASGI middleware."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyray.serving.http_errors import error_response

MAX_BODY_BYTES = 32 * 2**20


class BodyLimitMiddleware:
    """413 for bodies over `max_bytes`, whether announced by Content-Length or found while reading."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._message = f"the body is larger than {max_bytes} bytes; send several requests"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await error_response(413, self._message)(scope, receive, send)
            return
        num_bytes = 0

        async def counted_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise HTTPException(413, self._message)
            return message

        await self._app(scope, counted_receive, send)
