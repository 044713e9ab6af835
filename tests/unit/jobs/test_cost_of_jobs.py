"""Cost accounts of the commands, with stand-ins for Ray, engines and learners."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import polyray.cli.evaluate
import polyray.cli.quickstart
import polyray.cli.sft
import polyray.cli.train
import polyray.launch.evaluate
import polyray.launch.fleet
import polyray.launch.plan
import polyray.launch.sft
import polyray.launch.train
import polyray.sweeps.run
import polyray.sweeps.study
import polyray.sweeps.trial
from polyray.capacity.bundles import Part
from polyray.config.loader import load_config
from polyray.config.sweep import SweepConfig
from polyray.errors import Stopped
from polyray.runs.cost import cost_files, read_cost
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.sweeps.plan import plan_trials, trial_dir
from polyray.sweeps.trial import SweepWork, as_tune_config, run_trial

FLEET: Any = SimpleNamespace(pool=None, parts=(Part("engine", 1, {"CPU": 1.0}),))


def finish(config: Any, directory: RunDirectory, *rest: Any) -> None:
    """Stands for a job's work; `rest` ends with the account, where it is given one."""
    if rest and hasattr(rest[-1], "generated"):
        rest[-1].generated(10)
    directory.mark_done({"adapter": "a", "steps": 1})


@pytest.fixture(autouse=True)
def _without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open_ray", "open_fleet", "open_sampler"):
        monkeypatch.setattr(polyray.launch.fleet, name, lambda *arguments: nullcontext(FLEET))
    monkeypatch.setattr(polyray.launch.fleet, "pool_sampler", lambda *arguments: None)
    for name in ("plan_training", "plan_sft", "plan_evaluation", "plan_fleet"):
        monkeypatch.setattr(
            polyray.launch.plan, name, lambda config, *rest: SimpleNamespace(config=config, fleet=FLEET)
        )
    monkeypatch.setattr(polyray.launch.train, "train", finish)
    monkeypatch.setattr(polyray.launch.sft, "supervise", finish)
    monkeypatch.setattr(polyray.launch.evaluate, "evaluate", finish)


def jobs(run: Path) -> dict[str, str]:
    """Part -> job of its cost.json."""
    return {str(file.parent.relative_to(run)): read_cost(file).job for file in cost_files(run)}


def test_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # a finished run shows its cost and adds nothing
        arguments = ["configs/train/hidden_trap_grid.yaml", f"runs_dir={tmp_path}", "name=run"]
        assert polyray.cli.train.main([*arguments, "prices={core_hour: 0.02}"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("cost      ")
    cost = read_cost(tmp_path / "run" / "cost.json")
    assert (cost.job, cost.starts, cost.tokens_generated) == ("train", 1, 10)
    assert cost.money is not None and cost.money > 0


def test_a_quickstart_and_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polyray.cli.quickstart, "_pretraining", lambda *arguments: nullcontext(lambda: None))
    monkeypatch.setattr(polyray.cli.quickstart, "_finish", lambda *arguments: None)
    assert polyray.cli.quickstart.main([f"runs_dir={tmp_path}", "name=q"]) == 0
    found = jobs(tmp_path / "q")
    assert found.pop(".") == "quickstart"
    assert (found.pop("sft-seed0"), found.pop("evaluation-seed0")) == ("sft", "evaluate")
    assert len(found) >= 2 and set(found.values()) == {"train"}


@pytest.mark.parametrize("mode", ["shared", "per_trial"])
def test_a_sweep_and_its_trials(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(
        SweepConfig,
        "configs/sweep/lambda_seed.yaml",
        [f"runs_dir={tmp_path}", "name=s", f"fleet.mode={mode}"],
    )
    plans = plan_trials(config)[:2]

    def run_trials(config: SweepConfig, plans: Any, fleet: Any, *rest: Any) -> list[Any]:
        work = SweepWork(config, fleet)
        for number, plan in enumerate(plans):
            run_trial(as_tune_config(number, plan), work)
        return [SimpleNamespace(trial_id=plan.trial_id, status="done") for plan in plans]

    monkeypatch.setattr(polyray.sweeps.run, "check_resources", lambda *arguments: None)
    monkeypatch.setattr(polyray.sweeps.run, "run_trials", run_trials)
    monkeypatch.setattr(polyray.sweeps.run, "shared_fleet", lambda *arguments: nullcontext(FLEET))
    monkeypatch.setattr(polyray.sweeps.trial, "_fleet_of", lambda trial_id, plan, fleet: nullcontext(fleet))
    monkeypatch.setattr(polyray.sweeps.study, "_conclude", lambda *arguments: {})
    evaluation = polyray.sweeps.study.evaluation_of(config, plans, [])
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        polyray.sweeps.study.sweep(config, plans, evaluation, directory, display)
    of_trials = {f"trials/{plan.trial_id}": "train" for plan in plans}
    assert jobs(tmp_path / "s") == {".": "sweep", "evaluation": "evaluate", **of_trials}


def test_a_trial_that_is_ended_early_keeps_its_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: Any, directory: RunDirectory, fleet: Any, display: Any, cost: Any) -> None:
        cost.generated(10)
        raise Stopped("by the scheduler")

    monkeypatch.setattr(polyray.launch.train, "train", stopped)
    monkeypatch.setattr(polyray.sweeps.trial, "_fleet_of", lambda trial_id, plan, fleet: nullcontext(fleet))
    config = load_config(SweepConfig, "configs/sweep/lambda_seed.yaml", [f"runs_dir={tmp_path}", "name=s"])
    plan = plan_trials(config)[0]
    run_trial(as_tune_config(0, plan), SweepWork(config, FLEET))
    assert read_cost(trial_dir(config, plan.trial_id) / "cost.json").tokens_generated == 10
