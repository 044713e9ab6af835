"""Start of the reward service: the parts that need no running service."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from polyray.errors import ResourceError
from polyray.serving import serve_instance
from polyray.serving.reward.run import reward_app_name
from polyray.serving.serve_instance import Listening, ensure_serve, free_port


def listening(port: int = 0, host: str = "127.0.0.1") -> Listening:
    return Listening(host, port, 60.0, "reward.service.")


@pytest.mark.parametrize("failures", [1, 2])
def test_start_of_serve_is_tried_once_more_after_a_dead_proxy(failures: int, monkeypatch: pytest.MonkeyPatch):
    ports: list[int] = []

    def start(*, http_options: serve.HTTPOptions, **_: object) -> None:
        ports.append(http_options.port)
        if len(ports) <= failures:
            raise ActorDiedError

    def no_client() -> None:
        raise RayServeException("there is no Serve yet")

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve_instance, "_get_global_client", no_client)
    if failures == 2:
        with pytest.raises(ActorDiedError):
            ensure_serve(listening())
    else:
        assert ensure_serve(listening()) == ("127.0.0.1", ports[0])
    assert len(ports) == 2 and ports[0] == ports[1]


def test_a_port_in_use_is_named_with_the_fix():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve's own proxies do
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"127\.0\.0\.1:{port} .*reward\.service\.port"
        with pytest.raises(ResourceError, match=message):
            free_port(listening(port))
    assert free_port(listening(port)) == port


def test_default_port_in_use_is_replaced_by_a_free_one(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = free_port(Listening("127.0.0.1", port, 60.0, "reward.service.", any_port=True))
    assert found != port
    running = SimpleNamespace(http_config=serve.HTTPOptions(host="127.0.0.1", port=found))
    monkeypatch.setattr(serve_instance, "_get_global_client", lambda: running)
    default = Listening("127.0.0.1", port, 60.0, "reward.service.", any_port=True)
    assert ensure_serve(default) == ("127.0.0.1", found)
    with pytest.raises(ResourceError, match=rf"reward\.service\.port={port}, .*port {found}"):
        ensure_serve(listening(port))


def test_port_zero_is_any_free_one():
    port = free_port(listening(0))
    assert 1024 <= port <= 65535


def test_a_host_this_machine_does_not_have_is_named():
    with pytest.raises(ResourceError, match=r"192\.0\.2\.254:8000"):
        free_port(listening(8000, "192.0.2.254"))


def test_app_name_begins_with_the_run():
    assert reward_app_name("run-1") == "run-1-reward"
