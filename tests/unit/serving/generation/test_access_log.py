"""One line per request: exactly, for answers, refusals, streams, defects and clients that have gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from polyray.serving.generation.access_log import (
    Access,
    AccessLogMiddleware,
    RejectReason,
    install_access_log,
    logger,
    note_rejected,
)
from polyray.serving.http_errors import install_error_handlers
from tests.unit.serving.generation.operation_fixtures import CALLERS, SCOPE, USER, ask, bearer

ARRIVED = 1772366400.25
"""2026-03-01T12:00:00.250Z."""
PROMPT = "what nobody else may read"


class Counted:
    """Metrics that remember."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int, float]] = []
        self.rejected: list[str] = []

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests.append((route, status, seconds))

    def reject(self, reason: RejectReason) -> None:
        self.rejected.append(reason)


class Timer:
    """Half a second passes between two looks at it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        self.now_s += 0.5
        return self.now_s


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Lines that the access log writes."""
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield written
    logger.removeHandler(handler)
    logger.level, logger.propagate = before


async def pieces(
    request: Request, num_pieces: int, failure: BaseException | None = None
) -> AsyncIterator[str]:
    """A stream that counts its tokens as they go."""
    access: Access = request.state.access
    for piece in range(num_pieces):
        access.completion_tokens = piece + 1
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
        return StreamingResponse(pieces(request, 3), media_type="text/event-stream")

    @app.get("/broken")
    async def broken(request: Request) -> StreamingResponse:
        return StreamingResponse(pieces(request, 2, RuntimeError(PROMPT)))

    @app.get("/defect")
    async def defect() -> None:
        raise KeyError(PROMPT)

    @app.get("/full")
    async def full(request: Request) -> None:
        request.state.access.rejected = "queue_full"

    return app


def logged(
    app: FastAPI, metrics: Counted | None = None, log_prompts: bool = False, inner: ASGIApp | None = None
) -> AccessLogMiddleware:
    return AccessLogMiddleware(
        inner or app, app.routes, metrics, log_prompts, clock=lambda: ARRIVED, timer=Timer()
    )


def parsed(lines: list[str]) -> dict[str, Any]:
    """The one line, which is ASCII and holds nothing secret."""
    (line,) = lines
    assert line.isascii() and line.isprintable()
    for secret in (USER, PROMPT, "uthorization"):
        assert secret not in line
    return json.loads(line)


async def test_a_line_is_exactly_this(lines: list[str]):
    metrics = Counted()
    answer = await ask(
        logged(application(), metrics),
        "POST",
        "/v1/candidates?api_key=s3cret",
        headers=bearer(USER),
        json={"prompt": PROMPT},
    )
    assert answer.status_code == 200
    assert lines == [
        '{"time": "2026-03-01T12:00:00.250Z", "method": "POST", "route": "/v1/candidates", '
        '"path": "/v1/candidates", "status": 200, "duration_ms": 500.0, "caller": "default", "model": "policy-v17", '
        '"candidates_id": "cand-1", "prompt_tokens": 9, "completion_tokens": 48, "disconnected": false, '
        '"rejected": null, "error": null}'
    ]
    assert metrics.requests == [("/v1/candidates", 200, 0.5)] and metrics.rejected == []


async def test_log_prompts_adds_the_prompt_of_a_request(lines: list[str]):
    await ask(logged(application(), log_prompts=True), "POST", "/v1/candidates")
    assert json.loads(lines[0])["prompt"] == PROMPT
    assert list(json.loads(lines[0]))[-2:] == ["error", "prompt"]
    await ask(logged(application(), log_prompts=True), "GET", "/v1/candidates/c")
    assert "prompt" not in json.loads(lines[1])


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/v1/candidates/cand-7", "/v1/candidates/{candidates_id}", 200),
        ("PUT", "/v1/candidates", "/v1/candidates", 405),
        ("GET", "/v1/candidate", "other", 404),
        ("GET", "/v1/candidates/a/b", "other", 404),
        ("GET", "/full", "/full", 200),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/run/generation"])
async def test_the_route_is_a_template(lines: list[str], method, path, route, status, root_path):
    metrics = Counted()
    await ask(logged(application(), metrics), method, root_path + path, root_path)
    line = parsed(lines)
    assert (line["route"], line["path"], line["status"]) == (route, root_path + path, status)
    assert metrics.requests == [(route, status, 0.5)]


async def test_request_refused_by_a_middleware_is_logged_with_route_and_reason(lines: list[str]):
    app, metrics = application(), Counted()

    async def refusing(scope, receive, send) -> None:
        note_rejected(scope, "rate_limit")
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await ask(logged(app, metrics, inner=refusing), "GET", "/v1/candidates/cand-7")
    line = parsed(lines)
    assert (line["route"], line["status"]) == ("/v1/candidates/{candidates_id}", 429)
    assert (line["rejected"], line["caller"]) == ("rate_limit", None)
    assert metrics.rejected == ["rate_limit"]
    await ask(logged(app, metrics), "GET", "/full")
    assert json.loads(lines[1])["rejected"] == "queue_full" and metrics.rejected == [
        "rate_limit",
        "queue_full",
    ]
    note_rejected({"type": "http"}, "token")  # without the log: nothing to note it in


async def test_a_stream_is_written_at_its_end(lines: list[str]):
    app = logged(application())
    before_end: list[int] = []
    sent: list[Any] = []

    async def send(message: Any) -> None:
        before_end.append(len(lines))
        sent.append(message)

    await app({**SCOPE, "path": "/stream"}, never, send)
    assert [message.get("body") for message in sent[1:]] == [
        b"data: 0\n\n",
        b"data: 1\n\n",
        b"data: 2\n\n",
        b"",
    ]
    assert before_end == [0] * 5
    line = parsed(lines)
    assert (line["status"], line["completion_tokens"], line["disconnected"]) == (200, 3, False)


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets")


@pytest.mark.parametrize(
    ("path", "status", "error", "tokens"),
    [("/defect", 500, "KeyError", None), ("/broken", 200, "RuntimeError", 2)],
)
async def test_a_defect_is_named_by_its_type_alone(lines: list[str], path, status, error, tokens):
    metrics = Counted()
    app = application()
    with pytest.raises((KeyError, RuntimeError)):
        await logged(app, metrics)({**SCOPE, "path": path}, never, discard)
    line = parsed(lines)
    assert (line["status"], line["error"], line["completion_tokens"]) == (status, error, tokens)
    assert line["disconnected"] is False and metrics.requests == [(path, status, 0.5)]


async def discard(message: Any) -> None:
    return


def after(num_messages: int, then: Callable[[], None]) -> Callable[[Any], Any]:
    """A `send` that calls `then` once that many messages have passed."""
    passed = 0

    async def send(message: Any) -> None:
        nonlocal passed
        passed += 1
        if passed > num_messages:
            then()

    return send


def gone() -> None:
    raise OSError("the connection is closed")


async def test_a_client_that_goes_during_a_stream_is_noted_when_sending_fails(lines: list[str]):
    with pytest.raises(ClientDisconnect):
        await logged(application())({**SCOPE, "path": "/stream"}, never, after(2, gone))
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["completion_tokens"]) == (200, True, 2)
    assert line["error"] == "ClientDisconnect"


async def test_a_client_that_goes_during_a_stream_is_noted_when_the_server_says_so(lines: list[str]):
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    old_server = {**SCOPE, "path": "/stream", "asgi": {"version": "3.0", "spec_version": "2.3"}}
    await logged(application())(old_server, receive, send)
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["error"]) == (200, True, None)


async def test_a_disconnect_after_the_whole_answer_is_none(lines: list[str]):
    async def answering(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all", "more_body": False})
        assert (await receive())["type"] == "http.disconnect"
        raise asyncio.CancelledError

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(asyncio.CancelledError):
        await logged(application(), inner=answering)({**SCOPE, "path": "/stream"}, receive, discard)
    line = parsed(lines)
    assert (line["status"], line["disconnected"], line["error"]) == (200, False, "CancelledError")


@pytest.mark.parametrize(("begun", "status"), [(False, 499), (True, 200)])
async def test_a_cancelled_request_is_written_and_stays_cancelled(lines: list[str], begun: bool, status: int):
    metrics = Counted()
    reached = asyncio.Event()

    async def slow(scope, receive, send) -> None:
        scope["state"]["access"].completion_tokens = 5
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        reached.set()
        await asyncio.Event().wait()

    app = logged(application(), metrics, inner=slow)
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
    ],
)
async def test_hostile_values_stay_within_one_printable_line(lines: list[str], hostile: str):
    async def inner(scope, receive, send) -> None:
        access = scope["state"]["access"]
        access.model = access.candidates_id = access.prompt = hostile

    app = logged(application(), inner=inner, log_prompts=True)
    await app({**SCOPE, "path": f"/{hostile}", "method": hostile}, never, discard)
    (line,) = lines
    assert line.isascii() and line.isprintable()
    fields = json.loads(line)
    assert (fields["path"], fields["method"]) == (f"/{hostile}", hostile)
    assert fields["model"] == fields["candidates_id"] == fields["prompt"] == hostile


async def test_long_values_are_cut_and_prompts_are_not(lines: list[str]):
    async def inner(scope, receive, send) -> None:
        scope["state"]["access"].model = "m" * 10_000
        scope["state"]["access"].prompt = "p" * 10_000

    app = logged(application(), inner=inner, log_prompts=True)
    await app({**SCOPE, "path": "/" + "a" * 10_000}, never, discard)
    fields = json.loads(lines[0])
    assert fields["path"] == "/" + "a" * 255 and fields["model"] == "m" * 256
    assert fields["prompt"] == "p" * 10_000


async def test_requests_do_not_share_notes(lines: list[str]):
    app = logged(application())
    await ask(app, "POST", "/v1/candidates")
    await ask(app, "GET", "/v1/candidates/c")
    second = json.loads(lines[1])
    assert [second[key] for key in ("model", "candidates_id", "prompt_tokens", "caller")] == [None] * 4


async def test_without_a_reader_requests_are_counted_all_the_same(lines: list[str]):
    logger.setLevel(logging.WARNING)
    metrics = Counted()
    await ask(logged(application(), metrics), "GET", "/full")
    assert lines == [] and metrics.requests == [("/full", 200, 0.5)]


async def test_other_protocols_pass_unseen(lines: list[str]):
    seen: list[Any] = []

    async def inner(scope, receive, send) -> None:
        seen.append(scope)

    await logged(application(), inner=inner)({"type": "lifespan"}, never, discard)
    assert seen == [{"type": "lifespan"}] and lines == []


def test_lines_go_to_stderr_unchanged(capsys: pytest.CaptureFixture[str]):
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []
    try:
        install_access_log()
        install_access_log()
        logger.info("%s", '{"status": 200}')
        assert capsys.readouterr().err == '{"status": 200}\n'
    finally:
        logger.handlers[:], logger.level, logger.propagate = before


def test_a_prompt_is_in_no_repr():
    assert PROMPT not in repr(Access(prompt=PROMPT))
