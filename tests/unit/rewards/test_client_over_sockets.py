"""The reward client against a real server that misbehaves: slow, dripping, broken, busy."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from polyray.config.remote_reward import ClientSpec
from polyray.rewards.base import ScoreItem
from polyray.rewards.client import RewardServiceClient, Scored

SPEC = ClientSpec(deadline_s=5.0, attempt_timeout_s=0.3, max_attempts=3, max_items=4)


class Handler(BaseHTTPRequestHandler):
    """Misbehaves once, then scores each item by its completion's number in hundredths."""

    protocol_version = "HTTP/1.1"
    acts: list[Callable[[Handler], None]]
    times: list[float]

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["content-length"]))
        self.times.append(time.monotonic())
        if self.acts:
            return self.acts.pop()(self)
        items = json.loads(self.body)["items"]
        scores = [{"score": int(item["completion"]) / 100, "class": 0} for item in items]
        self.reply(200, json.dumps({"scores": scores}).encode())

    def reply(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def hang(handler: Handler) -> None:
    time.sleep(0.5)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    handler.reply(200, b" ", length=1_000_000)
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        pass
    handler.close_connection = True


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def half(handler: Handler) -> None:
    handler.reply(200, b'{"scores": [', length=100)
    drop(handler)


def busy(handler: Handler) -> None:
    handler.reply(429, b"busy", Retry_After="0.2")


def garbage(handler: Handler) -> None:
    handler.reply(200, b"\xff\xfe{not json")


@contextmanager
def service(*acts: Callable[[Handler], None]) -> Iterator[ThreadingHTTPServer]:
    handler = type("Misbehaving", (Handler,), {"acts": list(acts), "times": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def score(server: ThreadingHTTPServer, spec: ClientSpec = SPEC, number: int = 2) -> Scored:
    with RewardServiceClient(f"http://127.0.0.1:{server.server_port}", spec) as client:
        return client.score([ScoreItem("p", str(at)) for at in range(number)])


@pytest.mark.parametrize("act", [hang, drip, drop, half, busy])
def test_client_transient_failure_costs_a_try_and_no_score(act: Callable[[Handler], None]) -> None:
    with service(act) as server:
        scored = score(server)
        first, second = server.RequestHandlerClass.times  # type: ignore[attr-defined]
    assert [item.score for item in scored.scores] == [0.0, 0.01]
    assert act is not busy or second - first >= 0.2


def test_client_deadline_holds_against_a_dripping_service() -> None:
    spec = SPEC.model_copy(update={"attempt_timeout_s": 60.0, "deadline_s": 0.4})
    with service(drip) as server:
        started = time.monotonic()
        scored = score(server, spec)
        assert 0.35 < time.monotonic() - started < 1.5
    assert [failure.kind for failure in scored.failures] == ["timeout"]
    # The rest of the deadline once the request is under way.
    assert re.search(r"\b0\.(4|3[89]\d*) s\b", str(scored.scores[0].error))


def test_client_garbage_unscores_one_batch_of_several_without_a_retry() -> None:
    with service(garbage) as server:
        scored = score(server, number=12)
        assert len(server.RequestHandlerClass.times) == 3  # type: ignore[attr-defined]
    missing = [item.score is None for item in scored.scores]
    assert sum(missing) == 4 and [failure.kind for failure in scored.failures] == ["garbage"]
    known = [at for at, gone in enumerate(missing) if not gone]
    assert [scored.scores[at].score for at in known] == [at / 100 for at in known]


def test_client_refused_connection_is_unreachable() -> None:
    with service() as server:
        pass
    scored = score(server)
    assert scored.failures[0].kind == "unreachable" and scored.failures[0].tries == 3
