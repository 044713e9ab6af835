"""Which Ray a job uses: the cluster that RAY_ADDRESS names, or one of its own, and no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from polyray.actors.resources import ray_session
from polyray.config.run import RaySpec


@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_a_cluster_is_joined_where_it_is_named_and_never_found(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    ended: list[bool] = []

    def init(**options: Any) -> SimpleNamespace:
        asked.append(options)
        return SimpleNamespace(dashboard_url="127.0.0.1:8265")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        monkeypatch.delenv(name, raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with ray_session(RaySpec(num_cpus=3), Path("/repository")) as dashboard:
        assert dashboard == "http://127.0.0.1:8265"
    (options,) = asked
    assert options.get("address") == (None if address else "local")
    assert options.get("num_cpus") == (None if address else 3)
    assert options["runtime_env"]["env_vars"]["PYTHONPATH"] == "/repository"
    assert ended == [True]
