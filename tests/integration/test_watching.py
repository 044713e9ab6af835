"""A run on real parts that validates, is tracked and has its checkpoints copied: TensorBoard shows metrics.jsonl, and
a run whose directory is lost goes on from the storage, with what its validation had found.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from polyray.config.run import TrainConfig
from polyray.launch.fleet import Fleet
from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from tests.conftest import reproducible, run_training


@pytest.mark.slow
def test_run_is_tracked_and_resumes_from_storage_without_its_directory(
    train_config: Callable[..., TrainConfig], fleet: Fleet, tmp_path: Path
) -> None:
    changes = {
        "tracking": [{"type": "tensorboard"}],
        "evaluation": {"every": 2, "num_prompts": 4, "num_samples": 2},
        "learner__steps": 3,
        "learner__checkpoint_every": 1,
        "learner__keep_checkpoints": 1,
        "learner__keep_best": 1,
        "learner__best_metric": "reward_mean",
        "learner__checkpoint_storage": f"file://{tmp_path}",
    }
    paths = run_training(train_config("shown", **changes), fleet)
    lines, before = read_jsonl(paths.metrics), reproducible(paths.metrics)
    assert [line["step"] for line in lines] == [0, 1, 2]
    for key in ("reward_mean", "step_s", "idle_learn"):
        assert _shown(paths, key) == [(line["step"], pytest.approx(line[key])) for line in lines]
    best = max(lines, key=lambda line: (line["reward_mean"], -line["step"]))["policy_version"]
    kept = sorted({f"step-{best:06d}", "step-000003"})
    assert sorted(path.name for path in paths.checkpoints.glob("step-*")) == kept
    assert sorted(path.name for path in (tmp_path / "shown" / "checkpoints").iterdir()) == kept

    validated = read_jsonl(paths.dynamics)
    assert [line["version"] for line in validated] == [0, 2, 3]
    assert all(line["num_prompts"] == 4 and line["unscored_groups"] == 0 for line in validated)
    assert [line.get("validation/version") for line in lines] == [0, 2, 3]
    assert [line["validation/pass_at_1"] for line in lines] == [line["pass_at_1"] for line in validated]
    first_best = _adapter(paths.best)

    shutil.rmtree(paths.root)
    run_training(train_config("shown", **{**changes, "learner__steps": 4}), fleet)
    assert reproducible(paths.metrics)[:3] == before
    assert [line["step"] for line in read_jsonl(paths.metrics)] == [0, 1, 2, 3]
    again = read_jsonl(paths.dynamics)
    assert again[:3] == validated and [line["version"] for line in again] == [0, 2, 3, 4]
    if max(line["pass_at_1"] for line in validated) >= again[3]["pass_at_1"]:
        assert _adapter(paths.best) == first_best
    else:
        assert _adapter(paths.best) == _adapter(paths.adapter)
    assert [step for step, _ in _shown(paths, "reward_mean")] == [0, 1, 2, 3]


def _adapter(directory: Path) -> bytes:
    return (directory / "adapter_model.safetensors").read_bytes()


def _shown(paths: RunPaths, key: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(paths.tracking / "tensorboard"))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(key)]
