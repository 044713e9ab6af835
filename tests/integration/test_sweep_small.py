"""A sweep on simulated engines with stopped and blocked trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util import placement_group_table

from polyray.config.base import as_json
from polyray.config.loader import build_config
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.sweeps.plan import plan_trials, trial_dir
from polyray.sweeps.study import evaluation_of, failed_trials, sweep
from tests.conftest import REPOSITORY_ROOT, alive_actors
from tests.unit.report.sweep_fixtures import read_trials

pytestmark = pytest.mark.slow
MakeValues = Callable[..., dict[str, Any]]

STEPS = 30
"""At a tenth of a second each, a trial that is told to end after its first validation hears it before the last."""
REWARD = "def score(items):\n    return [len(set(item['completion'])) / 16 for item in items]\n"


@pytest.fixture
def config(train_values: MakeValues, tmp_path: Path) -> SweepConfig:
    """Two weights x two seeds, one trial at a time. A simulated policy samples by the seed alone, so validations of
    seed 3 beat those of seed 0 at every step; ASHA judges a trial beside those that reported before it, so which one
    it ends would else be a matter of who comes first."""
    (tmp_path / "varied.py").write_text(REWARD)
    train = train_values(
        "base",
        reward={
            "type": "python",
            "path": f"{tmp_path}/varied.py:score",
            "service": {"port": 0, "num_cpus": 0.5},
        },
        algorithm={"type": "polychromic", "objective": "cluster", "diversity_weight": 1.0, "set_size": 3},
        rollout__engine="simulated",
        rollout__num_workers=1,
        learner__steps=STEPS,
        evaluation={"every": 1, "num_prompts": 4, "best_metric": "reward_mean"},
    )
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    values = {
        "name": "small",
        "runs_dir": str(tmp_path),
        "train": str(tmp_path / "train.yaml"),
        "parameters": {"algorithm.diversity_weight": {"grid": [0.0, 1.0]}},
        "seeds": [3, 0],
        "metric": "reward_mean",
        "max_concurrent_trials": 1,
        "scheduler": {"type": "asha", "grace_steps": 1, "reduction_factor": 2},
        "evaluation": {
            "config": str(REPOSITORY_ROOT / "configs/evaluate/hidden_trap_grid.yaml"),
            "overrides": [
                "evaluation.num_prompts=20",
                "evaluation.bootstrap_resamples=100",
                "evaluation.text_metrics=[lexical]",
            ],
            "diversity": "distinct_2",
        },
    }
    return build_config(SweepConfig, values)


def test_stopped_and_blocked_trials_leave_no_resources_and_the_others_are_compared(
    ray_session: None, config: SweepConfig
) -> None:
    plans = plan_trials(config)
    blocked = plans[0].config.run_dir
    evaluation = evaluation_of(config, plans, [plan.trial_id for plan in plans])
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        (blocked / "checkpoints" / "step-000001").mkdir(parents=True)  # of another run that went this far
        other = as_json(plans[0].config) | {"seed": 99}
        (blocked / "config.json").write_text(json.dumps(other))
        sweep(config, plans, evaluation, directory, display)

    trials = read_trials(config.run_dir / "trials.jsonl")
    assert [trial.status for trial in trials] == ["failed", "done", "done", "stopped"]
    assert "seed: 99 -> 3" in str(trials[0].error)
    assert [trial.steps for trial in trials[1:3]] == [STEPS, STEPS] and trials[3].steps < STEPS
    stopped = trial_dir(config, trials[3].trial_id)
    assert (
        sorted(path.name for path in (stopped / "checkpoints").glob("step-*"))[-1]
        == f"step-{trials[3].steps:06d}"
    )
    assert json.loads((blocked / "config.json").read_text()) == other
    left = [
        name for name in alive_actors() if config.name in name or any(plan.trial_id in name for plan in plans)
    ]
    assert left == []
    assert all(entry["state"] == "REMOVED" for entry in placement_group_table().values())
    results = json.loads((config.run_dir / "results.json").read_text())
    assert [len(entry["counted"]) for entry in results["settings"]] == [1, 1]
    assert results["diversity"] == "distinct_2"
    assert (config.run_dir / "best" / "adapter_model.safetensors").is_file()
    with pytest.raises(ConfigError, match="seeds"):
        RunDirectory.open(config.model_copy(update={"seeds": (0,)}))

    shutil.rmtree(blocked)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        assert [line["trial_id"] for line in failed_trials(config)] == [plans[0].trial_id]
        sweep(config, plans, evaluation, directory, display)
    assert failed_trials(config) == []
    again = read_trials(config.run_dir / "trials.jsonl")
    assert [trial.status for trial in again] == ["done", "done", "done", "stopped"]
    assert [trial.tokens for trial in again[1:]] == [trial.tokens for trial in trials[1:]]
    results = json.loads((config.run_dir / "results.json").read_text())
    assert [len(entry["counted"]) for entry in results["settings"]] == [2, 1]
