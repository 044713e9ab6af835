"""Resources that jobs hold, and the logs that count their tokens and judge spend."""

from __future__ import annotations

import io
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import polyray.cli.quickstart
import polyray.cli.train
import polyray.launch.evaluate
import polyray.launch.fleet
import polyray.launch.plan
import polyray.launch.sft
import polyray.launch.train
import polyray.sweeps.run
import polyray.sweeps.study
import polyray.sweeps.trial
from polyray.capacity.bundles import Part, engines, training_parts
from polyray.config.judge import JudgeConfig
from polyray.config.loader import build_config, load_config
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import Stopped
from polyray.launch.cost import (
    evaluation_account,
    held_by,
    held_by_fleet,
    held_by_learner,
    judge_account,
    show_cost,
    supervised_account,
    training_account,
    trial_account,
)
from polyray.runs.cost import Cost, CostMeter, Held, cost_files, read_cost
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.sweeps.plan import plan_trials, trial_dir
from polyray.sweeps.trial import SweepWork, as_tune_config, run_trial

JUDGE = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
PRICED = {**JUDGE, "prices": {"input": 1.0, "cached_input": 0.5, "output": 10.0}}
MONEY = (600 * 1.0 + 400 * 0.5 + 100 * 10.0) / 1e6
"""Price of one `answer`."""
TRAINING: dict[str, Any] = {
    "rollout": {"num_workers": 3, "cpus_per_worker": 0.5, "gpus_per_worker": 1.0},
    "learner": {"num_workers": 2, "cpus_per_worker": 1.5, "use_gpu": True},
    "reward": {"type": "verifier", "service": {"num_replicas": 2, "num_cpus": 0.25}},
}
SHARES: dict[str, Any] = {
    "rollout": {"gpus_per_worker": 0.5},
    "learner": {"use_gpu": True, "gpus_per_worker": 0.5},
    "reward": {"type": "verifier", "service": {"num_replicas": 2, "num_cpus": 0.25, "num_gpus": 0.25}},
}


def configured(model: type[Any], tmp_path: Path, **values: Any) -> Any:
    return build_config(model, {"name": "run", "runs_dir": str(tmp_path), **values})


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def answer(owner: str) -> dict[str, Any]:
    counts = {"input_tokens": 1000, "cached_tokens": 400, "output_tokens": 100}
    return {"key": "k", "owner": owner, "answer": {"text": "", "finish_reason": "stop", **counts}}


def cost_of(tmp_path: Path) -> Cost:
    return read_cost(tmp_path / "run" / "cost.json")


def judge_spend(tmp_path: Path) -> tuple[int, int, float | None]:
    cost = cost_of(tmp_path)
    return cost.judge_requests, cost.judge_tokens, cost.judge_money


def held_of(meter: CostMeter) -> Held | None:
    return meter._held


@pytest.mark.parametrize(
    ("sections", "learner", "fleet"),
    [
        (TRAINING, Held(2 * 1.5, 2.0), Held(3 * 0.5 + 2 * 0.25, 3.0)),
        (SHARES, Held(1.0, 0.5), Held(1.0 + 0.5, 0.5 + 2 * 0.25)),
    ],
)
def test_training_account_holds_engines_learner_and_rewards(
    sections: dict[str, Any], learner: Held, fleet: Held, tmp_path: Path
) -> None:
    config = configured(TrainConfig, tmp_path, **sections)
    whole = Held(learner.cpus + fleet.cpus, learner.gpus + fleet.gpus)
    assert (held_by_learner(config.learner), held_by_fleet(config)) == (learner, fleet)
    assert held_by(*training_parts(config)) == held_of(trial_account(config, sharing=None)) == whole
    shared = Held(learner.cpus + fleet.cpus / 4, learner.gpus + fleet.gpus / 4)
    assert held_of(trial_account(config, sharing=4)) == shared
    assert fleet.share(4) == Held(fleet.cpus / 4, fleet.gpus / 4)


def test_training_account_counts_tokens_over_all_starts(tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    write(metrics, {"step": 0, "tokens_generated": 500})
    for _ in range(2):
        with training_account(configured(TrainConfig, tmp_path), Held(1.0)) as meter:
            write(metrics, {"step": 1, "tokens_generated": 60}, {"step": 2})
            meter.generated(150)
    assert (cost_of(tmp_path).tokens_trained, cost_of(tmp_path).tokens_generated) == (620, 300)


def test_supervised_and_evaluation_accounts_count_tokens(tmp_path: Path) -> None:
    with supervised_account(configured(SftConfig, tmp_path)):
        write(tmp_path / "run" / "metrics.jsonl", {"step": 0, "tokens": 640})
        write(tmp_path / "run" / "dynamics.jsonl", {"step": 0, "tokens_generated": 70.0}, {"step": 1})
    assert (cost_of(tmp_path).tokens_trained, cost_of(tmp_path).tokens_generated) == (640, 70)
    evaluate = configured(EvaluateConfig, tmp_path / "e", adapters={"base": None})
    with evaluation_account(evaluate) as meter:
        write(evaluate.run_dir / "evaluation" / "samples.jsonl", {"num_tokens": 5}, {"num_tokens": 6})
    assert held_of(meter) == held_by(engines(evaluate.rollout))
    assert cost_of(tmp_path / "e").tokens_generated == 11
    assert judge_spend(tmp_path / "e") == (0, 0, None)


def test_evaluation_account_includes_judge_and_checker_across_a_kill(tmp_path: Path) -> None:
    def account() -> AbstractContextManager[Any]:
        values = {"adapters": {"base": None}, "judging": {"judge": PRICED}}
        return evaluation_account(configured(EvaluateConfig, tmp_path, **values))

    answers = tmp_path / "run" / "judge" / "answers.jsonl"
    with account():
        write(answers, answer("run"))
    # A start that was killed before it wrote its cost paid for the first of these.
    write(answers, answer("run"), answer("another"))
    with account():
        write(answers.with_name("checker_answers.jsonl"), answer("run"))
    assert judge_spend(tmp_path) == (3, 3300, pytest.approx(3 * MONEY))


@pytest.mark.parametrize("composite", [False, True])
def test_training_account_includes_only_judge_answers_during_its_run(composite: bool, tmp_path: Path) -> None:
    cache = tmp_path / "shared.jsonl"
    reward: dict[str, Any] = {"type": "judge", "judge": PRICED, "cache_path": str(cache)}
    if composite:
        reward = {"type": "composite", "parts": [{"name": "judge", "reward": reward}]}
    sections = {"reward": reward, "second_opinion": reward, "task": {"type": "creative_writing"}}
    write(cache, answer(""))
    for _ in range(2):
        with training_account(configured(TrainConfig, tmp_path, **sections), Held(1.0)):
            write(cache, answer(""))
        write(cache, answer(""))  # written by another run
    assert judge_spend(tmp_path) == (2, 2200, pytest.approx(2 * MONEY))


def test_evaluation_account_includes_the_judge_of_a_checker(tmp_path: Path) -> None:
    cache = tmp_path / "shared.jsonl"
    reward = {"type": "judge", "judge": PRICED, "cache_path": str(cache)}
    checker = {"type": "reward_threshold", "threshold": 0.5, "reward": reward}
    values = {"adapters": {"base": None}, "checker": checker, "task": {"type": "creative_writing"}}
    with evaluation_account(configured(EvaluateConfig, tmp_path, **values)):
        write(cache, answer(""))
    assert judge_spend(tmp_path) == (1, 1100, pytest.approx(MONEY))


@pytest.mark.parametrize(("judge", "money"), [(PRICED, MONEY), (JUDGE, None)])
def test_judge_account_includes_own_answers_only(
    judge: dict[str, Any], money: float | None, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    values = {"samples": "s", "judge": judge, "cache_dir": str(cache)}
    with judge_account(configured(JudgeConfig, tmp_path, **values)):
        write(cache / "answers.jsonl", answer("run"), answer("other"))
    assert judge_spend(tmp_path) == (1, 1100, money if money is None else pytest.approx(money))


def test_show_cost_names_the_file_and_sums_parts(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = ProgressDisplay(console=Console(file=stream, width=300))
    show_cost(tmp_path, display)
    assert stream.getvalue() == ""
    cost = asdict(Cost("train", 1, core_s=2700.0, tokens_generated=1000))
    for run in (tmp_path, tmp_path / "trials" / "a"):
        write(run / "cost.json", cost)
    show_cost(tmp_path, display)
    assert stream.getvalue() == (
        f"cost      1.5 core hours, 2,000 tokens generated   ({tmp_path / 'cost.json'})\n"
    )


FLEET: Any = SimpleNamespace(pool=None, parts=(Part("engine", 1, {"CPU": 1.0}),))


@pytest.fixture
def without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Ray, engines and learners of every command by stand-ins."""

    def finish(config: Any, directory: RunDirectory, *rest: Any) -> None:
        if rest and hasattr(rest[-1], "generated"):
            rest[-1].generated(10)
        directory.mark_done({"adapter": "a", "steps": 1})

    for name in ("open_ray", "open_fleet", "open_sampler"):
        monkeypatch.setattr(polyray.launch.fleet, name, lambda *arguments: nullcontext(FLEET))
    monkeypatch.setattr(polyray.launch.fleet, "pool_sampler", lambda *arguments: None)
    for name in ("plan_training", "plan_sft", "plan_evaluation", "plan_fleet"):
        monkeypatch.setattr(
            polyray.launch.plan,
            name,
            lambda config, *rest, **options: SimpleNamespace(config=config, fleet=FLEET),
        )
    monkeypatch.setattr(polyray.launch.train, "train", finish)
    monkeypatch.setattr(polyray.launch.sft, "supervise", finish)
    monkeypatch.setattr(polyray.launch.evaluate, "evaluate", finish)
    monkeypatch.setattr(polyray.sweeps.trial, "_fleet_of", lambda trial_id, plan, fleet: nullcontext(fleet))


def jobs(run: Path) -> dict[str, str]:
    """Part -> job of its cost.json."""
    return {str(file.parent.relative_to(run)): read_cost(file).job for file in cost_files(run)}


@pytest.mark.usefixtures("without_engines")
def test_cost_of_training_is_shown_again_for_a_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        arguments = ["configs/train/hidden_trap_grid.yaml", f"runs_dir={tmp_path}", "name=run"]
        assert polyray.cli.train.main([*arguments, "prices={core_hour: 0.02}"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("cost      ")
    cost = cost_of(tmp_path)
    assert (cost.job, cost.starts, cost.tokens_generated) == ("train", 1, 10)
    assert cost.money is not None and cost.money > 0


@pytest.mark.usefixtures("without_engines")
def test_cost_of_a_quickstart_has_a_file_for_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polyray.cli.quickstart, "_pretraining", lambda *arguments: nullcontext(lambda: None))
    monkeypatch.setattr(polyray.cli.quickstart, "_finish", lambda *arguments: None)
    assert polyray.cli.quickstart.main([f"runs_dir={tmp_path}", "name=q"]) == 0
    found = jobs(tmp_path / "q")
    assert found.pop(".") == "quickstart"
    assert (found.pop("sft-seed0"), found.pop("evaluation-seed0")) == ("sft", "evaluate")
    assert len(found) >= 2 and set(found.values()) == {"train"}


@pytest.mark.usefixtures("without_engines")
@pytest.mark.parametrize("mode", ["shared", "per_trial"])
def test_cost_of_a_sweep_has_a_file_for_each_trial(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f"runs_dir={tmp_path}", "name=s", f"fleet.mode={mode}"]
    config = load_config(SweepConfig, "configs/sweep/lambda_seed.yaml", overrides)
    plans = plan_trials(config)[:2]

    def run_trials(config: SweepConfig, plans: Any, fleet: Any, *rest: Any) -> list[Any]:
        for number, plan in enumerate(plans):
            run_trial(as_tune_config(number, plan), SweepWork(config, fleet))
        return [SimpleNamespace(trial_id=plan.trial_id, status="done") for plan in plans]

    monkeypatch.setattr(polyray.sweeps.run, "check_resources", lambda *arguments: None)
    monkeypatch.setattr(polyray.sweeps.run, "run_trials", run_trials)
    monkeypatch.setattr(polyray.sweeps.run, "shared_fleet", lambda *arguments: nullcontext(FLEET))
    monkeypatch.setattr(polyray.sweeps.study, "_conclude", lambda *arguments: {})
    evaluation = polyray.sweeps.study.evaluation_of(config, plans, [])
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        polyray.sweeps.study.sweep(config, plans, evaluation, directory, display)
    of_trials = {f"trials/{plan.trial_id}": "train" for plan in plans}
    assert jobs(tmp_path / "s") == {".": "sweep", "evaluation": "evaluate", **of_trials}


@pytest.mark.usefixtures("without_engines")
def test_cost_of_a_trial_that_is_stopped_early_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: Any, directory: RunDirectory, fleet: Any, display: Any, cost: Any) -> None:
        cost.generated(10)
        raise Stopped("by the scheduler")

    monkeypatch.setattr(polyray.launch.train, "train", stopped)
    config = load_config(SweepConfig, "configs/sweep/lambda_seed.yaml", [f"runs_dir={tmp_path}", "name=s"])
    plan = plan_trials(config)[0]
    run_trial(as_tune_config(0, plan), SweepWork(config, FLEET))
    assert read_cost(trial_dir(config, plan.trial_id) / "cost.json").tokens_generated == 10
