"""An ASGI application on a real port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import uvicorn
from fastapi import FastAPI


@contextmanager
def served(opened: AbstractAsyncContextManager[FastAPI], start_timeout_s: float) -> Iterator[str]:
    """The URL of an application, which is opened, answers and is closed in one event loop of its own."""
    server: uvicorn.Server | None = None

    async def serve() -> None:
        nonlocal server
        async with opened as app:
            config = uvicorn.Config(
                app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1
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
        thread.join(30)
        assert not thread.is_alive(), "the service did not stop"
