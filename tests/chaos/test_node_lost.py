"""A whole node goes, with the workers and the objects on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MARK, REPOSITORY_ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
LOST = {"worker_replaced", "groups_lost", "reward_retried"}
"""What may go with the node; the reward's replica is wherever Serve put it."""


def test_workers_of_a_node_that_is_lost_come_back_elsewhere(
    train_values: Callable[..., dict[str, Any]], tmp_path: Path, killed_marks: list[str]
) -> None:
    values = train_values(
        "node-lost",
        rollout__engine="simulated",
        rollout__num_workers=2,
        rollout__cpus_per_worker=2,
        rollout__max_staleness=1,
        rollout__group_timeout_s=60,
        learner__steps=40,
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values))
    mark = f"node-lost-{os.getpid()}"
    killed_marks.append(mark)  # when the session ends, none of its processes is left
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.node_lost", str(file)],
        cwd=REPOSITORY_ROOT,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT), MARK: mark},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["outcome"] == "done"
    assert {item["kind"] for item in result["incidents"]} <= LOST
    replaced = [item for item in result["incidents"] if item["kind"] == "worker_replaced"]
    assert len(replaced) == result["on_that_node"] >= 1
    assert "1 x engine fit on no machine" in result["refused"], "9 CPUs in all, on no machine more than 4"
    assert sorted(re.findall(r"has (\d) CPUs?, 0 GPUs left", result["refused"])) == ["1", "4", "4"]
    assert result["lost_node"] not in result["nodes_of_workers"]
    assert result["placement_groups"] == 0 and result["probes_left"] == []
