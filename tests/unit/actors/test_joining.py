"""What can be wrong about a cluster to join, by name; with a real head: tests/integration/test_submit.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from polyray.actors.joining import join
from polyray.errors import ConfigError, ResourceError


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
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
    assert str(refused.value).startswith(
        f"nobody answers at RAY_ADDRESS={address} (Connection refused); is the head up"
    )
    assert asked == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://head:8265",
            r"RAY_ADDRESS=http://head:8265 is no address of a Ray .* python -m jobs\.submit",
        ),
        ("ray://head:10001", r"RAY_ADDRESS=ray://head:10001 is no address of a Ray that a process can join"),
        ("head", r"RAY_ADDRESS=head is no HOST:PORT; the port of a head is 6379"),
        ("head:port", r"RAY_ADDRESS=head:port is no HOST:PORT"),
    ],
)
def test_addresses_of_another_kind(monkeypatch: pytest.MonkeyPatch, address: str, message: str) -> None:
    asked = answers(monkeypatch, None)
    with pytest.raises(ConfigError, match=message):
        join(address)
    assert asked == []


@pytest.mark.parametrize(
    ("mode", "fix"), [("token", "its token is another one"), ("disabled", "if it wants a token")]
)
def test_a_refused_token(monkeypatch: pytest.MonkeyPatch, listening: str, mode: str, fix: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    answers(monkeypatch, ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379"))
    with pytest.raises(ConfigError) as refused:
        join(listening)
    expected = (
        f"what listens at RAY_ADDRESS={listening} does not let this process in (RAY_AUTH_MODE={mode}); {fix}"
    )
    assert str(refused.value).startswith(expected)


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
