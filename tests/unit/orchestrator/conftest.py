"""For tests of the coordinator as a plain object."""

from __future__ import annotations

import pytest
import ray

from polyray.orchestrator import coordinator


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bypass the object store and shorten all waits."""
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(coordinator, "LONG_POLL_S", 0.05)
