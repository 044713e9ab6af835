"""The reward client against a real server that misbehaves: slow, dripping, broken, busy, full of garbage."""

from __future__ import annotations

import email.utils
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

Misbehaviour = Callable[["Handler"], None]
SPEC = ClientSpec(backoff_s=0.005, deadline_s=5.0, attempt_timeout_s=0.3, max_attempts=3, max_items=4)


class Handler(BaseHTTPRequestHandler):
    """Misbehaves as often as the test says, then scores each item by its completion's number in hundredths."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:  # type: ignore[attr-defined]
            self.server.times.append(time.monotonic())  # type: ignore[attr-defined]
            acts = self.server.acts  # type: ignore[attr-defined]
            act = acts.pop(0) if acts else well
        act(self)

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def well(handler: Handler) -> None:
    items = json.loads(handler.body)["items"]
    scores = [{"score": int(item["completion"]) / 100, "class": 0} for item in items]
    handler.reply(200, json.dumps({"scores": scores}).encode())


def hang(handler: Handler) -> None:
    time.sleep(0.5)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass
    handler.close_connection = True


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def half(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"scores": [')
    handler.wfile.flush()
    drop(handler)


def busy(handler: Handler) -> None:
    handler.reply(429, b"busy", Retry_After="0.2")


def busy_until(handler: Handler) -> None:
    date = email.utils.formatdate(time.time() + 1.2, usegmt=True)  # whole seconds: 0.2 to 1.2 from now
    handler.reply(503, b"busy", Retry_After=date)


def garbage(handler: Handler) -> None:
    handler.reply(200, b"\xff\xfe{not json")


@contextmanager
def service(*acts: Misbehaviour) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.acts, server.times, server.lock = list(acts), [], threading.Lock()  # type: ignore[attr-defined]
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
def test_transient_failure_costs_a_try_and_no_score(act: Misbehaviour) -> None:
    with service(act) as server:
        scored = score(server)
        assert [item.score for item in scored.scores] == [0.0, 0.01]
        assert len(server.times) == 2  # type: ignore[attr-defined]


def test_the_time_a_service_asks_for_is_waited() -> None:
    with service(busy, busy_until) as server:
        assert score(server).failures == ()
        first, second, third = server.times  # type: ignore[attr-defined]
        assert 0.2 <= second - first < 0.6
        assert 0.15 <= third - second < 1.8


def test_the_deadline_holds_against_a_service_that_drips() -> None:
    spec = SPEC.model_copy(update={"attempt_timeout_s": 60.0, "deadline_s": 0.4})
    with service(drip) as server:
        started = time.monotonic()
        scored = score(server, spec)
        assert 0.35 < time.monotonic() - started < 1.5
    assert [failure.kind for failure in scored.failures] == ["timeout"]
    # The rest of the deadline once the request is under way.
    assert re.search(r"\b0\.(4|39\d*) s\b", str(scored.scores[0].error))


def test_garbage_is_not_asked_for_again() -> None:
    with service(garbage) as server:
        scored = score(server)
        assert len(server.times) == 1  # type: ignore[attr-defined]
    assert [failure.kind for failure in scored.failures] == ["garbage"]
    assert "JSON" in str(scored.scores[1].error)


def test_one_batch_of_several_may_fail_alone() -> None:
    with service(garbage) as server:
        scored = score(server, number=12)
    missing = [item.score is None for item in scored.scores]
    assert sum(missing) == 4 and len(scored.failures) == 1
    known = [at for at, gone in enumerate(missing) if not gone]
    assert [scored.scores[at].score for at in known] == [at / 100 for at in known]


def test_refused_connection_is_unreachable() -> None:
    with service() as server:
        port = server.server_port
    with RewardServiceClient(f"http://127.0.0.1:{port}", SPEC) as client:
        scored = client.score([ScoreItem("p", "1")])
    assert scored.failures[0].kind == "unreachable" and scored.failures[0].tries == 3
