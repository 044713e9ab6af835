"""One line per request: exactly, for answers, refusals, streams, defects and clients that have gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from polyray.serving.generation.access_log import (
    Access,
    AccessLogMiddleware,
    install_access_log,
    logger,
)
from polyray.serving.http_errors import install_error_handlers
from tests.unit.serving.generation.operation_fixtures import (
    CALLERS,
    SCOPE,
    USER,
    Counted,
    ask,
    bearer,
    logged_lines,
)

ARRIVED = 1772366400.25
"""2026-03-01T12:00:00.250Z."""
PROMPT = "a secret prompt"


class Timer:
    """Half a second passes between two looks at it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        self.now_s += 0.5
        return self.now_s


@pytest.fixture
def lines() -> Iterator[list[str]]:
    with logged_lines() as written:
        yield written


async def pieces(request: Request, failure: BaseException | None = None) -> AsyncIterator[str]:
    """A stream that counts its tokens as they go."""
    for piece in range(3):
        request.state.access.completion_tokens = piece + 1
        yield f"data: {piece}\n\n"
    if failure is not None:
        raise failure


def application() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)

    @app.post("/v1/candidates")
    async def candidates(request: Request) -> str:
        access: Access = request.state.access
        access.model, access.candidates_id = "policy-v17", "cand-1"
        access.prompt_tokens, access.completion_tokens = 9, 48
        access.prompt = PROMPT
        request.state.caller = CALLERS[USER]
        return "ok"

    @app.get("/v1/candidates/{candidates_id}")
    async def stored(candidates_id: str) -> str:
        return candidates_id

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(pieces(request), media_type="text/event-stream")

    @app.get("/broken")
    async def broken(request: Request) -> StreamingResponse:
        return StreamingResponse(pieces(request, RuntimeError(PROMPT)))

    @app.get("/defect")
    async def defect() -> None:
        raise KeyError(PROMPT)

    return app


def logged(
    inner: ASGIApp | None = None, metrics: Counted | None = None, log_prompts: bool = False
) -> AccessLogMiddleware:
    app = application()
    return AccessLogMiddleware(
        inner or app, app.routes, metrics, log_prompts, clock=lambda: ARRIVED, timer=Timer()
    )


def parsed(lines: list[str]) -> dict[str, Any]:
    """The one line, which is ASCII and holds nothing secret."""
    (line,) = lines
    assert line.isascii() and line.isprintable()
    assert not any(secret in line for secret in (USER, PROMPT, "uthorization"))
    return json.loads(line)


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def disconnect() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def discard(message: Any) -> None:
    await asyncio.sleep(0)


async def test_access_log_line_is_exact_and_has_the_prompt_on_request(lines: list[str]) -> None:
    metrics = Counted()
    await ask(logged(metrics=metrics), "POST", "/v1/candidates?api_key=s3cret", headers=bearer(USER))
    assert lines == [
        '{"time": "2026-03-01T12:00:00.250Z", "method": "POST", "route": "/v1/candidates", '
        '"path": "/v1/candidates", "status": 200, "duration_ms": 500.0, "caller": "default", "model": "policy-v17", '
        '"candidates_id": "cand-1", "prompt_tokens": 9, "completion_tokens": 48, "disconnected": false, '
        '"rejected": null, "error": null}'
    ]
    assert metrics.requests == [("/v1/candidates", 200, 0.5)] and metrics.rejected == []
    app = logged(log_prompts=True)
    await ask(app, "POST", "/v1/candidates")
    await ask(app, "GET", "/v1/candidates/c")
    with_prompt, without = (json.loads(line) for line in lines[1:])
    assert with_prompt["prompt"] == PROMPT and list(with_prompt)[-2:] == ["error", "prompt"]
    assert "prompt" not in without
    assert [without[key] for key in ("model", "candidates_id", "prompt_tokens", "caller")] == [None] * 4


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/v1/candidates/cand-7", "/v1/candidates/{candidates_id}", 200),
        ("PUT", "/v1/candidates", "/v1/candidates", 405),
        ("GET", "/v1/candidate", "other", 404),
        ("GET", "/v1/candidates/a/b", "other", 404),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/run/generation"])
async def test_access_log_route_is_a_template(
    lines: list[str], method: str, path: str, route: str, status: int, root_path: str
) -> None:
    metrics = Counted()
    await ask(logged(metrics=metrics), method, root_path + path, root_path)
    line = parsed(lines)
    assert (line["route"], line["path"], line["status"]) == (route, root_path + path, status)
    assert metrics.requests == [(route, status, 0.5)]


async def test_access_log_stream_is_written_at_its_end(lines: list[str]) -> None:
    before_end: list[int] = []

    async def send(message: Any) -> None:
        before_end.append(len(lines))

    await logged()({**SCOPE, "path": "/stream"}, never, send)
    assert before_end == [0] * 5
    line = parsed(lines)
    assert (line["status"], line["completion_tokens"], line["disconnected"]) == (200, 3, False)


@pytest.mark.parametrize(
    ("path", "status", "error", "tokens"),
    [("/defect", 500, "KeyError", None), ("/broken", 200, "RuntimeError", 3)],
)
async def test_access_log_defect_is_named_by_its_type_alone(
    lines: list[str], path: str, status: int, error: str, tokens: int | None
) -> None:
    metrics = Counted()
    with pytest.raises((KeyError, RuntimeError)):
        await logged(metrics=metrics)({**SCOPE, "path": path}, never, discard)
    line = parsed(lines)
    assert (line["status"], line["error"], line["completion_tokens"]) == (status, error, tokens)
    assert line["disconnected"] is False and metrics.requests == [(path, status, 0.5)]


async def test_access_log_client_gone_during_a_stream_is_noted(lines: list[str]) -> None:
    passed = 0

    async def send(message: Any) -> None:
        nonlocal passed
        passed += 1
        if passed > 2:
            raise OSError("the connection is closed")

    with pytest.raises(ClientDisconnect):
        await logged()({**SCOPE, "path": "/stream"}, never, send)
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["completion_tokens"]) == (200, True, 2)
    assert line["error"] == "ClientDisconnect"
    lines.clear()
    old_server = {**SCOPE, "path": "/stream", "asgi": {"version": "3.0", "spec_version": "2.3"}}
    await logged()(old_server, disconnect, discard)
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["error"]) == (200, True, None)


async def test_access_log_disconnect_after_the_whole_answer_is_none(lines: list[str]) -> None:
    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all", "more_body": False})
        assert (await receive())["type"] == "http.disconnect"
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await logged(answering)({**SCOPE, "path": "/stream"}, disconnect, discard)
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["error"]) == (200, False, "CancelledError")


@pytest.mark.parametrize(("begun", "status"), [(False, 499), (True, 200)])
async def test_access_log_cancelled_request_is_written_and_stays_cancelled(
    lines: list[str], begun: bool, status: int
) -> None:
    metrics, reached = Counted(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["access"].completion_tokens = 5
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        reached.set()
        await asyncio.Event().wait()

    app = logged(slow, metrics)
    task = asyncio.create_task(app({**SCOPE, "path": "/stream"}, never, discard))
    await reached.wait()
    assert lines == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["error"]) == (status, True, "CancelledError")
    assert line["completion_tokens"] == 5 and metrics.requests == [("/stream", status, 0.5)]


@pytest.mark.parametrize(
    "hostile",
    [
        'x"}\n{"time": "2026", "status": 200}',
        "x\r\nGET / 200",
        "x\u2028y\u2029z",
        "\x1b[2J\x1b[31mred",
        "\x00\x07\x7f\x85",
        "lone \ud800 surrogate",
        "grüße \U0001f600",
        "%s %(message)s {0}",
        "m" * 10_000,
    ],
)
async def test_access_log_hostile_values_stay_within_one_printable_line(
    lines: list[str], hostile: str
) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        access = scope["state"]["access"]
        access.model = access.candidates_id = access.prompt = hostile

    scope = {**SCOPE, "path": f"/{hostile}", "method": hostile}
    await logged(inner, log_prompts=True)(scope, never, discard)
    (line,) = lines
    assert line.isascii() and line.isprintable()
    fields = json.loads(line)
    assert (fields["path"], fields["method"]) == (f"/{hostile}"[:256], hostile[:256])
    assert fields["model"] == fields["candidates_id"] == hostile[:256]
    assert fields["prompt"] == hostile, "a prompt is never cut"


async def test_access_log_ignores_other_protocols(lines: list[str]) -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    await logged(inner)({"type": "lifespan"}, never, discard)
    assert seen == [{"type": "lifespan"}] and lines == []


def test_access_log_lines_go_to_stderr_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []
    try:
        install_access_log()
        install_access_log()
        logger.info("%s", '{"status": 200}')
        assert capsys.readouterr().err == '{"status": 200}\n'
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
