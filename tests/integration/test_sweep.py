"""A small sweep on real parts and one fleet, against single runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util import placement_group_table

from polyray.config.loader import build_config
from polyray.config.sweep import SweepConfig
from polyray.launch.fleet import Fleet
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory, RunPaths
from polyray.sweeps.plan import plan_trials
from polyray.sweeps.study import evaluation_of, sweep
from tests.conftest import REPOSITORY_ROOT, alive_actors, reproducible, run_training
from tests.unit.report.sweep_fixtures import read_trials

pytestmark = pytest.mark.slow


def test_trials_on_a_shared_fleet_match_runs_alone(
    fleet: Fleet, train_values: Callable[..., dict[str, Any]], warm_start: Path, tmp_path: Path
) -> None:
    file = tmp_path / "train.yaml"
    algorithm = {"type": "polychromic", "objective": "cluster", "diversity_weight": 1.0, "set_size": 3}
    changes = {"model__warm_start": str(warm_start), "algorithm": algorithm, "rollout__num_workers": 1}
    file.write_text(
        yaml.safe_dump(train_values("base", **changes, evaluation={"every": 2, "num_prompts": 4}))
    )
    values = {
        "name": "small",
        "runs_dir": str(tmp_path),
        "train": str(file),
        "parameters": {"algorithm.diversity_weight": {"grid": [0.0, 1.0]}},
        "seeds": [0, 1],
        "metric": "pass_at_8",
        "max_concurrent_trials": 2,
        "evaluation": {
            "config": str(REPOSITORY_ROOT / "configs/evaluate/hidden_trap_grid.yaml"),
            "overrides": ["evaluation.num_prompts=20", "evaluation.bootstrap_resamples=100"],
        },
    }
    config = build_config(SweepConfig, values)
    plans = plan_trials(config)
    evaluation = evaluation_of(config, plans, [plan.trial_id for plan in plans])
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        sweep(config, plans, evaluation, directory, display)
    trials = read_trials(tmp_path / "small" / "trials.jsonl")
    assert [(trial.status, trial.steps) for trial in trials] == [("done", 4)] * 4
    assert [trial.metric is not None and trial.tokens > 0 for trial in trials] == [True] * 4
    results = json.loads((tmp_path / "small" / "results.json").read_text())
    assert [entry["value"] for entry in results["settings"]] == [0.0, 1.0]
    best = tmp_path / "small" / "best" / "adapter_model.safetensors"
    assert best.read_bytes() in [adapter(tmp_path, plan.trial_id).read_bytes() for plan in plans]
    assert "<html" in (tmp_path / "small" / "report.html").read_text()[:200]
    left = [name for name in alive_actors() if any(plan.trial_id in name for plan in plans)]
    assert left == []
    assert all(entry["state"] == "REMOVED" for entry in placement_group_table().values())

    alone = plans[3].config.model_copy(update={"runs_dir": str(tmp_path / "alone")})
    paths = run_training(alone, fleet)
    of_sweep = RunPaths(tmp_path / "small" / "trials" / plans[3].trial_id)
    assert reproducible(paths.metrics) == reproducible(of_sweep.metrics)
    assert (paths.adapter / "adapter_model.safetensors").read_bytes() == adapter(
        tmp_path, plans[3].trial_id
    ).read_bytes()


def adapter(root: Path, trial_id: str) -> Path:
    return root / "small" / "trials" / trial_id / "adapter" / "adapter_model.safetensors"
