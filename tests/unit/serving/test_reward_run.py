"""Start of the reward service: the parts that need no running service."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from polyray.config.service import ServiceSpec
from polyray.errors import ResourceError
from polyray.serving import serve_instance
from polyray.serving.reward import run
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.serve_instance import Listening, ensure_serve, free_port
from tests.unit.serving.reward_service_fixtures import verifier_plan


def listening(port: int = 0, host: str = "127.0.0.1", any_port: bool = False) -> Listening:
    return Listening(host, port, 60.0, "reward.service.", any_port=any_port)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another process listens on."""
    with socket.socket() as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve's own proxies do
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        yield owner.getsockname()[1]


@pytest.mark.parametrize("failures", [1, 2])
def test_serve_start_is_tried_once_more_after_a_dead_proxy(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_service_without_token_is_not_opened_by_a_serve_that_others_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = SimpleNamespace(http_config=serve.HTTPOptions(host="0.0.0.0", port=8000))
    monkeypatch.setattr(serve_instance, "_get_global_client", lambda: running)
    assert ensure_serve(listening()) == ("0.0.0.0", 8000)
    assert ensure_serve(replace(listening(host="0.0.0.0"), guarded=False)) == ("0.0.0.0", 8000)
    with pytest.raises(ResourceError, match=r"host=127\.0\.0\.1, .*0\.0\.0\.0.*POLYRAY_API_TOKEN"):
        ensure_serve(replace(listening(), guarded=False))


@pytest.mark.parametrize("refused", [True, False])
def test_refused_models_are_taken_back_for_replicas_to_come(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ReplicaConfiguration.of(verifier_plan())
    new = replace(old, revision="+1")
    deployed: list[str] = []
    states = iter([("", None), ("", "+1") if refused else ("+1", None), ("+1", None), ("+1", None)])

    def info() -> Any:
        revision, refused_revision = next(states)
        answer = SimpleNamespace(
            revision=revision, refused_revision=refused_revision, reload_error="no such module"
        )
        return SimpleNamespace(result=lambda timeout_s: answer)

    handle = SimpleNamespace(info=SimpleNamespace(remote=info))
    monkeypatch.setattr(run, "_deploy", lambda _, models, *rest: deployed.append(models.revision))
    monkeypatch.setattr(serve, "get_app_handle", lambda name: handle)
    error = run.reload_reward_service("a", new, old, None, ServiceSpec())
    assert (error, deployed) == (("no such module", ["+1", ""]) if refused else (None, ["+1"]))


def test_port_in_use_is_refused_with_the_fix(taken: int) -> None:
    with pytest.raises(ResourceError, match=rf"127\.0\.0\.1:{taken} .*reward\.service\.port"):
        free_port(listening(taken))
    with pytest.raises(ResourceError, match=r"192\.0\.2\.254:8000"):
        free_port(listening(8000, "192.0.2.254"))
    assert 1024 <= free_port(listening(0)) <= 65535


def test_port_by_default_is_replaced_by_a_free_one(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = free_port(listening(taken, any_port=True))
    assert found != taken and free_port(listening(found)) == found
    running = SimpleNamespace(http_config=serve.HTTPOptions(host="127.0.0.1", port=found))
    monkeypatch.setattr(serve_instance, "_get_global_client", lambda: running)
    assert ensure_serve(listening(taken, any_port=True)) == ("127.0.0.1", found)
    with pytest.raises(ResourceError, match=rf"reward\.service\.port={taken}, .*port {found}"):
        ensure_serve(listening(taken))
