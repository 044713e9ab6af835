"""Where jobs open their accounts: the jobs as they are, with stand-ins for Ray, engines and learners."""

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
from polyray.config.loader import load_config
from polyray.config.sweep import SweepConfig
from polyray.errors import Stopped
from polyray.runs.cost_record import read_cost
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.sweeps.plan import plan_trials, trial_dir
from polyray.sweeps.trial import SweepWork, as_tune_config, run_trial

FLEET: Any = SimpleNamespace(pool=None)


def finish(config: Any, directory: RunDirectory, *rest: Any) -> None:
    """Stands for a job's work; `rest` ends with the account, where it is given one."""
    if rest and hasattr(rest[-1], "generated"):
        rest[-1].enter("train")
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


def phases(run: Path) -> list[str]:
    return list(read_cost(run / "cost.json").phases)


def test_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # a finished run shows its cost and adds nothing
        arguments = ["configs/train/hidden_trap_grid.yaml", f"runs_dir={tmp_path}", "name=run"]
        assert polyray.cli.train.main([*arguments, "prices={core_hour: 0.02}"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("cost      ")
    record = read_cost(tmp_path / "run" / "cost.json")
    assert (record.job, record.attempts, list(record.phases)) == ("train", 1, ["start", "train"])
    assert record.total.tokens_generated == 10
    assert record.money is not None and record.money > 0


def test_a_quickstart_and_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polyray.cli.quickstart, "_pretraining", lambda *arguments: nullcontext(lambda: None))
    monkeypatch.setattr(polyray.cli.quickstart, "_finish", lambda *arguments: None)
    assert polyray.cli.quickstart.main([f"runs_dir={tmp_path}", "name=q"]) == 0
    runs = sorted(path.parent.name for path in (tmp_path / "q").glob("*/cost.json"))
    arms = [run for run in runs if run not in ("sft-seed0", "evaluation-seed0")]
    assert len(arms) >= 2
    assert phases(tmp_path / "q") == [
        "start",
        "report",
        "sft-seed0/train",
        *(f"{arm}/{phase}" for arm in arms_in_order(tmp_path, arms) for phase in ("start", "train")),
        "evaluation-seed0/evaluate",
    ]


def arms_in_order(tmp_path: Path, arms: list[str]) -> list[str]:
    order = [name.partition("/")[0] for name in phases(tmp_path / "q") if name.endswith("/start")]
    assert sorted(order) == arms
    return order


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
    of_evaluation = ["evaluation/start", "evaluation/evaluate"]
    of_trials = [f"trials/{plan.trial_id}/{phase}" for plan in plans for phase in ("start", "train")]
    assert phases(tmp_path / "s") == ["start", "trials", "report", *of_trials, *of_evaluation]
    own = read_cost(tmp_path / "s" / "cost.json").phases
    assert own["trials"].core_s == 0.0, "what trials hold is in their own accounts"
    assert (own["start"].core_s > 0.0) == (mode == "shared")


def test_a_trial_that_is_ended_early_keeps_its_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: Any, directory: RunDirectory, fleet: Any, display: Any, cost: Any) -> None:
        cost.enter("train")
        raise Stopped("by the scheduler")

    monkeypatch.setattr(polyray.launch.train, "train", stopped)
    monkeypatch.setattr(polyray.sweeps.trial, "_fleet_of", lambda trial_id, plan, fleet: nullcontext(fleet))
    config = load_config(SweepConfig, "configs/sweep/lambda_seed.yaml", [f"runs_dir={tmp_path}", "name=s"])
    plan = plan_trials(config)[0]
    run_trial(as_tune_config(0, plan), SweepWork(config, FLEET))
    assert phases(trial_dir(config, plan.trial_id)) == ["start", "train"]
