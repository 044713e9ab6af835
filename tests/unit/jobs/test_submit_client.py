"""Whom jobs.submit asks, what it makes of what it hears, and how it follows a job whose head is away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import ray
import requests.exceptions
from ray.exceptions import AuthenticationError

from polyray.cli.submit import main
from polyray.errors import ConfigError, ResourceError
from polyray.submission import client as submit_client
from polyray.submission.client import Cluster
from tests.unit.jobs.submit_head import ADDRESS, Head

REFUSED = "Request failed with status code"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_client, "RETRY_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def dashboard() -> Iterator[tuple[str, list[str]]]:
    """(its address, the paths that were asked there)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            version = {"version": "4", "ray_version": ray.__version__, "ray_commit": "x"}
            body = json.dumps(version if self.path == "/api/version" else []).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_address_that_is_given_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    with dashboard() as (other, asked_other), dashboard() as (given, asked_given):
        monkeypatch.setenv(variable, other)
        assert main(["--list", "--address", given]) == 0
        assert asked_other == [] and asked_given[-1] == "/api/jobs/"
        assert capsys.readouterr().out == f"polyray has no job at {given}\n"
        assert Cluster.open(other).lines() == [] and asked_other[-1] == "/api/jobs/"


def test_an_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[str, Any]] = []

    def request(method: str, url: str, **options: Any) -> Any:
        waits.append((method, options["timeout"]))
        raise requests.exceptions.ReadTimeout("no answer")

    with dashboard() as (address, _):
        cluster = Cluster.open(address)
        monkeypatch.setattr(requests, "request", request)
        with pytest.raises(ResourceError, match=f"no dashboard answers at {address}; is the head up"):
            cluster.lines()
        with pytest.raises(requests.exceptions.ReadTimeout):
            cluster._client._do_request("PUT", "/api/packages/gcs/x")  # as large as it may be
    assert waits == [("GET", 30.0), ("PUT", None)]


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (
            ConnectionError("x"),
            ResourceError,
            "no dashboard answers at http://127.0.0.1:8265; is the head up",
        ),
        (requests.exceptions.ConnectionError("x"), ResourceError, "no dashboard answers at"),
        (requests.exceptions.ReadTimeout("x"), ResourceError, "no dashboard answers at"),
        (AuthenticationError("Authentication required: x"), ConfigError, "refuses the token"),
        (RuntimeError(f"{REFUSED} 401: Unauthorized."), ConfigError, "refuses the token"),
        (RuntimeError(f"{REFUSED} 403: x."), ConfigError, "refuses the token"),
        (RuntimeError(f"{REFUSED} 404: Job a does not exist."), ConfigError, "there is no job a-404 at"),
        (RuntimeError(f"{REFUSED} 500: oh\nmore"), ResourceError, r"answers with an error: .* 500: oh$"),
        (RuntimeError(f"{REFUSED} 500: line 401, in x"), ResourceError, "answers with an error: .* line 401"),
        (
            RuntimeError(f"{REFUSED} 500: Job a-404: Forbidden"),
            ResourceError,
            "answers with an error: .*a-404",
        ),
        (RuntimeError(), ResourceError, "answers with an error: RuntimeError$"),
    ],
)
def test_what_is_heard_is_named_by_what_it_is(
    raised: Exception, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head()

    def fail(*arguments: Any) -> None:
        raise raised

    monkeypatch.setattr(head, "get_job_info", fail)
    with pytest.raises(error, match=message):
        Cluster(head, ADDRESS).status("a-404")
    if "404" not in message:
        monkeypatch.setattr(submit_client, "_client", fail)
        with pytest.raises(error, match=message):
            Cluster.open(ADDRESS)


def test_a_log_is_printed_once_however_often_the_connection_breaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = Head()
    line, exit_code = Cluster(head, ADDRESS).follow(head.info.submission_id)
    assert (line.split()[1], exit_code) == ("SUCCEEDED", 0)
    assert head.tails == 2 and capsys.readouterr().out == head.log


class AwayHead(Head):
    """Does not say how its job stands while `away` has errors left; the tail fails with `lost`."""

    def __init__(self, away: list[Exception], lost: Exception, **changes: Any) -> None:
        super().__init__(**changes)
        self.away, self.lost = away, lost

    def get_job_info(self, submission_id: str) -> Any:
        if self.tails and self.away:
            raise self.away.pop()
        return super().get_job_info(submission_id)

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        self.tails += 1
        yield "one\n"
        if self.tails == 1:
            raise self.lost
        self.info.status = "SUCCEEDED"


def handshake() -> Exception:
    """What a proxy's 503 to the websocket becomes."""
    return aiohttp.WSServerHandshakeError(SimpleNamespace(real_url=ADDRESS), (), status=503)  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", [RuntimeError("closed"), aiohttp.ClientConnectionError("x"), handshake()])
def test_a_head_that_is_away_is_waited_for(capsys: pytest.CaptureFixture[str], lost: Exception) -> None:
    away = [
        ConnectionError("refused"),
        requests.exceptions.ReadTimeout("x"),
        RuntimeError(f"{REFUSED} 502: x"),
    ]
    head = AwayHead(away, lost)
    line, exit_code = Cluster(head, ADDRESS).follow(head.info.submission_id)
    assert (line.split()[1], exit_code, head.tails, head.away) == ("SUCCEEDED", 0, 2, [])
    printed = capsys.readouterr()
    assert printed.out == head.log and printed.err.count("it is asked again for 120 s") == 1


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_client, "AWAY_S", 0.05)
    monkeypatch.setattr(submit_client, "RETRY_S", 0.01)
    head = AwayHead([ConnectionError("refused")] * 100, RuntimeError("closed"))
    name = head.info.submission_id
    with pytest.raises(ResourceError) as lost:
        Cluster(head, ADDRESS).follow(name)
    assert str(lost.value) == (
        f"no dashboard answers at {ADDRESS}, for 0.05 s; the job goes on where its cluster does: "
        f"polyray submit --logs {name} --address {ADDRESS} follows it"
    )


class SilentHead(Head):
    """Its tail says one line and then nothing for ever, as a connection that died without a word."""

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        self.tails += 1
        yield self.log[: 4 * self.tails]
        if self.tails == 3:
            self.info.status = "STOPPED"
        await asyncio.sleep(3600)


def test_a_connection_that_is_silent_is_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_client, "TAIL_S", 0.02)
    head = SilentHead()
    line, exit_code = Cluster(head, ADDRESS).follow(head.info.submission_id)
    assert (line.split()[1], exit_code, head.tails) == ("STOPPED", 130, 3)
    assert capsys.readouterr().out == head.log


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, 1), (None, 1), (0, 1), (-9, 137)])
def test_a_job_whose_log_is_gone_still_says_how_it_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int | None, expected: int
) -> None:
    head = Head(status="FAILED", driver_exit_code=code)

    def gone(submission_id: str) -> str:
        raise RuntimeError(f"{REFUSED} 500: Traceback node gone")

    monkeypatch.setattr(head, "get_job_logs", gone)
    monkeypatch.setattr(Cluster, "open", lambda address, any_version: Cluster(head, address))
    assert main(["--logs", head.info.submission_id, "--address", ADDRESS]) == expected
    printed = capsys.readouterr()
    assert printed.out == f"{head.info.submission_id}  FAILED  python -m polyray.cli train x.yaml\n"
    assert printed.err.startswith("note: the end of its log cannot be had: the cluster at ")


def test_a_job_is_stopped_although_its_head_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    head = AwayHead([ConnectionError("refused")], RuntimeError())
    stopped: list[str] = []

    def stop_job(submission_id: str) -> None:
        stopped.append(submission_id)
        head.tails, head.info.status = 1, "STOPPED"

    monkeypatch.setattr(head, "stop_job", stop_job, raising=False)
    Cluster(head, ADDRESS).stop(head.info.submission_id)
    assert stopped == [head.info.submission_id] and head.away == []
