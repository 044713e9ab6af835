"""Machines that share a directory and machines that do not; with real machines: tests/chaos/node_lost.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.exceptions

from polyray.cluster import storage_check
from polyray.cluster.storage_check import PROBE, check_storage
from polyray.errors import ResourceError

Write = Callable[[str], str]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Write]:
    """Address of a machine -> how it writes; every machine at first into the directory that the driver sees."""
    machines: dict[str, Write] = {}
    nodes = [
        {"NodeID": f"{number}" * 56, "NodeManagerAddress": f"10.0.0.{number}", "Alive": number != 3}
        for number in range(1, 4)
    ]

    class Task:
        def __init__(self, function: Write, node: str = "") -> None:
            self.function, self.node = function, node

        def options(self, scheduling_strategy: Any) -> Task:
            return Task(self.function, scheduling_strategy.node_id)

        def remote(self, path: str) -> Callable[[], str]:
            address = next(node["NodeManagerAddress"] for node in nodes if node["NodeID"] == self.node)
            return lambda: machines.get(str(address), self.function)(path)

    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "remote", lambda **options: Task)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())
    return machines


def test_a_directory_that_all_machines_share_is_left_as_it_was(
    cluster: dict[str, Write], tmp_path: Path
) -> None:
    seen: list[str] = []
    write = storage_check._write
    cluster["10.0.0.1"] = lambda path: write(path) + (seen.append(path) or "")
    check_storage(tmp_path / "runs" / "a")
    assert len(seen) == 1 and Path(seen[0]).parent == tmp_path / "runs" / "a"
    assert list((tmp_path / "runs" / "a").iterdir()) == []


def test_a_machine_that_cannot_write_is_named(cluster: dict[str, Write], tmp_path: Path) -> None:
    cluster["10.0.0.2"] = lambda path: storage_check._write(str(tmp_path / "missing" / "x"))
    with pytest.raises(ResourceError, match=r"10\.0\.0\.2 .*FileNotFoundError"):
        check_storage(tmp_path)
    assert not list(tmp_path.glob(f"{PROBE}*"))


def test_a_machine_with_a_directory_of_its_own_is_named(cluster: dict[str, Write], tmp_path: Path) -> None:
    cluster["10.0.0.2"] = lambda path: ""
    with pytest.raises(ResourceError, match=r"10\.0\.0\.2 .*runs_dir"):
        check_storage(tmp_path)


def test_a_machine_that_does_not_answer_is_named(cluster: dict[str, Write], tmp_path: Path) -> None:
    def hang(path: str) -> str:
        raise ray.exceptions.GetTimeoutError("60 s")

    cluster["10.0.0.1"] = hang
    with pytest.raises(ResourceError, match=r"10\.0\.0\.1 .*\b60 s\b"):
        check_storage(tmp_path)


def test_one_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}])
    check_storage(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
