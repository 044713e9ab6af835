"""An ASGI application on a real port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI


@contextmanager
def served(build: Callable[[], Awaitable[FastAPI]], start_timeout_s: float) -> Iterator[str]:
    """An application on a port of this machine; `build` is awaited in the event loop that answers."""
    server: uvicorn.Server | None = None

    async def serve() -> None:
        nonlocal server
        config = uvicorn.Config(
            await build(), host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1
        )
        server = started = uvicorn.Server(config)
        await started.serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    deadline = time.monotonic() + start_timeout_s
    while server is None or not server.started:
        assert time.monotonic() < deadline and thread.is_alive(), "the service did not start"
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(10)
