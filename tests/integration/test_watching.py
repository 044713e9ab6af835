"""A run on real parts that is tracked and whose checkpoints are copied: TensorBoard shows metrics.jsonl, and a run
whose directory is lost goes on from the storage.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.fleet import Fleet
from polyray.config.run import TrainConfig
from polyray.observability.jsonl import read_jsonl
from polyray.observability.run_directory import RunPaths
from tests.conftest import reproducible, run_training


def test_a_run_is_shown_as_it_is_and_goes_on_where_its_directory_is_lost(
    train_config: Callable[..., TrainConfig], fleet: Fleet, tmp_path: Path
) -> None:
    changes = {
        "tracking": [{"type": "tensorboard"}],
        "learner__steps": 3,
        "learner__checkpoint_every": 1,
        "learner__keep_checkpoints": 1,
        "learner__keep_best": 1,
        "learner__best_metric": "reward_mean",
        "learner__checkpoint_storage": f"file://{tmp_path}",
    }
    paths = run_training(train_config("watched", **changes), fleet)
    lines, before = read_jsonl(paths.metrics), reproducible(paths.metrics)
    assert [line["step"] for line in lines] == [0, 1, 2]
    for key in ("reward_mean", "step_s", "idle_learn"):
        assert _shown(paths, key) == [(line["step"], pytest.approx(line[key])) for line in lines]
    best = max(lines, key=lambda line: (line["reward_mean"], -line["step"]))["policy_version"]
    kept = sorted({f"step-{best:06d}", "step-000003"})
    assert sorted(path.name for path in paths.checkpoints.glob("step-*")) == kept
    assert sorted(path.name for path in (tmp_path / "watched" / "checkpoints").iterdir()) == kept

    shutil.rmtree(paths.root)
    run_training(train_config("watched", **{**changes, "learner__steps": 4}), fleet)
    assert reproducible(paths.metrics)[:3] == before
    assert [line["step"] for line in read_jsonl(paths.metrics)] == [0, 1, 2, 3]
    assert [step for step, _ in _shown(paths, "reward_mean")] == [0, 1, 2, 3]


def _shown(paths: RunPaths, key: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(paths.tracking / "tensorboard"))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(key)]
