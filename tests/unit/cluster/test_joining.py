"""Errors of joining a cluster; with a real head: tests/integration/test_submit.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import ray.exceptions

from polyray.cluster.joining import TRIES_VARIABLE, join
from polyray.errors import ConfigError, ResourceError


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("", 0))  # as a head does: at the machine's own address, too
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def answers(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def init(**options: Any) -> str:
        asked.append(options)
        if error is not None:
            raise error
        return "context"

    monkeypatch.setattr(ray, "init", init)
    return asked


def test_where_somebody_listens_ray_is_joined(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    asked = answers(monkeypatch, None)
    assert join(listening, namespace="n") == "context"
    assert join("auto") == "context"
    assert asked == [{"namespace": "n"}, {}]


def test_where_nobody_listens_ray_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, None)
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ResourceError) as refused:
            join(address)
    assert f"RAY_ADDRESS={address} (Connection refused)" in str(refused.value)
    assert asked == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://head:8265",
            r"RAY_ADDRESS=http://head:8265 is not an address of a Ray .* ray job submit",
        ),
        (
            "ray://head:10001",
            r"RAY_ADDRESS=ray://head:10001 is not an address of a Ray that a process can join",
        ),
        ("head", r"RAY_ADDRESS=head is not HOST:PORT; the port of a head is 6379"),
        ("head:port", r"RAY_ADDRESS=head:port is not HOST:PORT"),
    ],
)
def test_addresses_of_another_kind(monkeypatch: pytest.MonkeyPatch, address: str, message: str) -> None:
    asked = answers(monkeypatch, None)
    with pytest.raises(ConfigError, match=message):
        join(address)
    assert asked == []


def test_a_forwarded_port_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray turns 127.0.0.1 into the machine's own address, where a tunnel (ssh -L) does not listen."""
    asked = answers(monkeypatch, None)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.9")
    with socket.socket() as tunnel:
        tunnel.bind(("127.0.0.1", 0))
        tunnel.listen()
        port = tunnel.getsockname()[1]
        with pytest.raises(ResourceError) as refused:
            join(f"localhost:{port}")
    assert f"RAY_ADDRESS=localhost:{port}" in str(refused.value) and f"127.0.0.9:{port}" in str(refused.value)
    assert asked == []


def test_a_head_that_does_not_answer_is_tried_once(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr(ray, "init", lambda: seen.append(os.environ.get(TRIES_VARIABLE)))
    monkeypatch.delenv(TRIES_VARIABLE, raising=False)
    join(listening)
    assert TRIES_VARIABLE not in os.environ
    monkeypatch.setenv(TRIES_VARIABLE, "7")
    join(listening)
    assert seen == ["1", "7"] and os.environ[TRIES_VARIABLE] == "7"


def failed(listening: str, cause: str) -> ConnectionError:
    """As Ray raises it; the texts are those of Ray 2.60 against a head with a token, and against a mere listener."""
    error = ConnectionError(f"Failed to connect to Ray cluster at {listening}")
    error.__cause__ = RuntimeError(cause)
    return error


REFUSED = (
    "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n"
    "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect.\n"
)


@pytest.mark.parametrize(
    ("mode", "fix"), [("token", "its token is another one"), ("disabled", "it wants a token")]
)
def test_a_refused_token(monkeypatch: pytest.MonkeyPatch, listening: str, mode: str, fix: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    expected = f"RAY_ADDRESS={listening} does not let this process in (RAY_AUTH_MODE={mode}); {fix}"
    for error in (failed(listening, REFUSED), ray.exceptions.AuthenticationError("no token found")):
        answers(monkeypatch, error)
        with pytest.raises(ConfigError) as refused:
            join(listening)
        assert str(refused.value).startswith(expected)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            "No node info found matching attributes: '' when trying to resolve node to connect to.",
            r"^this machine is not part of .* RAY_ADDRESS=\S+: .*; start one here \(`ray start --address=",
        ),
        (
            "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n"
            "ray.exceptions.RpcError: Timed out while waiting for GCS to become available.\n",
            r"^RAY_ADDRESS=\S+ does not answer as the head of a Ray cluster "
            r"\(ray.exceptions.RpcError: Timed out while waiting for GCS to become available.\); give the port",
        ),
    ],
)
def test_not_every_failure_is_a_token(
    monkeypatch: pytest.MonkeyPatch, listening: str, cause: str, message: str
) -> None:
    answers(monkeypatch, failed(listening, cause))
    with pytest.raises(ResourceError, match=message) as refused:
        join(listening)
    assert "token" not in str(refused.value)


def test_no_ray_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ConnectionError("Could not find any running Ray instance"))
    with pytest.raises(
        ConfigError, match=r"RAY_ADDRESS=auto: there is no Ray on this machine .* unset RAY_ADDRESS"
    ):
        join("auto")


def test_another_version(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    text = "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\nThis process has\n"
    answers(monkeypatch, RuntimeError(text))
    with pytest.raises(ConfigError) as refused:
        join(listening)
    assert str(refused.value).startswith(
        "Version mismatch: The cluster was started with: Ray: 2.60.0 This process has; use the same image"
    )
    answers(monkeypatch, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        join(listening)
