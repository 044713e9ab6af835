"""A worker joins with its node, and the run survives the node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MARK, REPOSITORY_ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS = 12


def test_worker_joins_with_its_node_and_run_survives_the_loss_of_the_node(
    train_values: Callable[..., dict[str, Any]], tmp_path: Path, killed_marks: list[str]
) -> None:
    values = train_values(
        "elastic",
        rollout__engine="simulated",
        rollout__num_workers=1,
        rollout__max_workers=2,
        rollout__cpus_per_worker=3,  # one fits on a node
        rollout__node_labels={"polyray.io/capacity": "on-demand"},
        rollout__max_worker_replacements=0,
        rollout__group_timeout_s=20,
        delivery__timeout_s=20,  # Ray may take minutes to find out that a node is gone
        learner__steps=STEPS,
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values))
    mark = f"elastic-{os.getpid()}"
    killed_marks.append(mark)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.elastic_pool", str(file)],
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
    assert result["incidents_before"] == 0 and result["zones"] == ["a", "b"]
    kinds = [incident["kind"] for incident in result["incidents"]]
    assert kinds.count("worker_joined") == 1 and kinds.count("worker_replaced") == 1
    # At S = 0 a step's groups are those that were planned for it, whoever sampled them.
    assert [sorted(groups) for groups in result["groups"]] == [
        list(range(4 * step, 4 * step + 4)) for step in range(STEPS)
    ]
