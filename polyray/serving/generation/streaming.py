"""Helpers between a handler and its client: work that ends when the client goes, and server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from polyray.errors import PolyrayError
from polyray.serving.generation.access_log import CLIENT_CLOSED_REQUEST
from polyray.serving.http_errors import error_response

ResultT = TypeVar("ResultT")
EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class ClientGone(Exception):
    """The client has closed its connection, so the answer is not read."""


async def while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled as soon as the client goes: the engine then stops generating.

    For handlers that have read their body. Raises ClientGone, and any error of `work`.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def event_stream(request: Request, events: AsyncGenerator[str, None]) -> Response:
    """Server-sent events, each a complete block without its blank line.

    The first one is awaited, so that an earlier error gets an answer with its own status. A later error is the
    last event, `error`, in the common shape.
    """
    first = await while_connected(request, anext(events))
    return StreamingResponse(_blocks(first, events), media_type="text/event-stream", headers=EVENT_HEADERS)


def closed() -> Response:
    """Response for the log when a client has gone."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _blocks(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    try:
        yield f"{first}\n\n"
        async for block in rest:
            yield f"{block}\n\n"
    except PolyrayError as error:  # the status has been sent
        body = bytes(error_response(500, str(error), code=type(error).__name__).body).decode()
        yield f"event: error\ndata: {body}\n\n"
    finally:
        await rest.aclose()
