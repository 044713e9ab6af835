"""Two ranks end at the same step although they look at different moments: threads that stand for processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.learner import reduce
from polyray.learner.stopping import agreed_to_stop
from polyray.runs.stop_request import StopRequest


def test_stop_seen_by_rank_0_holds_for_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, sent = threading.Barrier(2, timeout=20), []

    def broadcast(shared: list[Any], src: int) -> None:
        if int(threading.current_thread().name.rsplit("_", 1)[1]) == src:
            sent[:] = shared
        barrier.wait()
        shared[:] = sent
        barrier.wait()

    two = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        broadcast_object_list=broadcast,
    )
    monkeypatch.setattr(reduce, "dist", two)
    asked, not_asked = tmp_path / "asked", tmp_path / "not-asked"
    for directory in (asked, not_asked):
        directory.mkdir()
    StopRequest(asked).ask("SIGTERM")

    def rank_of_this_thread(seen: dict[int, Path]) -> bool:
        rank = int(threading.current_thread().name.rsplit("_", 1)[1])
        return agreed_to_stop(seen[rank], rank)

    for seen_by_0, seen_by_1, verdict in ((not_asked, asked, False), (asked, not_asked, True)):
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(rank_of_this_thread, [{0: seen_by_0, 1: seen_by_1}] * 2))
        assert answers == [verdict, verdict]
