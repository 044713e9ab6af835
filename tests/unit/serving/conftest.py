"""Fixtures of several services."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that a user's function waits for (WAITING): it runs in a thread of this process."""
    builtins.reward_gate = threading.Event()  # type: ignore[attr-defined]
    yield builtins.reward_gate  # type: ignore[attr-defined]
    builtins.reward_gate.set()  # type: ignore[attr-defined]
