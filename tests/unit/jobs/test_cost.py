"""What jobs hold, and where their accounts get tokens and the judge's spend from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyray.config.judge import JudgeConfig, JudgeSpec
from polyray.config.loader import build_config, load_config
from polyray.config.run import EvaluateConfig, QuickstartConfig, SftConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.launch.cost import (
    Answers,
    TokensOfLog,
    evaluation_account,
    held_by_engines,
    held_by_fleet,
    held_by_learner,
    held_by_training,
    judge_account,
    quickstart_account,
    show_cost,
    spend_of,
    supervised_account,
    sweep_account,
    training_account,
    trial_account,
)
from polyray.runs.cost import CostMeter, Held, Tokens
from polyray.runs.cost_record import Amounts, CostRecord, JudgeSpend, read_cost
from polyray.runs.progress import ProgressDisplay
from polyray.sweeps.plan import plan_trials

JUDGE = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
PRICED = {**JUDGE, "prices": {"input": 1.0, "cached_input": 0.5, "output": 10.0}}


def training(tmp_path: Path, **sections: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "name": "run",
        "runs_dir": str(tmp_path),
        "rollout": {"num_workers": 3, "cpus_per_worker": 0.5, "gpus_per_worker": 1.0},
        "learner": {"num_workers": 2, "cpus_per_worker": 1.5, "use_gpu": True},
        "reward": {"type": "verifier", "service": {"num_replicas": 2, "num_cpus": 0.25}},
    }
    return build_config(TrainConfig, {**values, **sections})


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def answer(owner: str, tokens: tuple[int, int, int] = (1000, 400, 100)) -> dict[str, Any]:
    names = ("input_tokens", "cached_tokens", "output_tokens")
    counts = dict(zip(names, tokens, strict=True))
    return {"key": "k", "owner": owner, "answer": {"text": "", "finish_reason": "stop", **counts}}


MONEY = (600 * 1.0 + 400 * 0.5 + 100 * 10.0) / 1e6
"""Of one such answer."""


def spent(requests: int, tokens: int, money: float) -> JudgeSpend:
    nearly: Any = pytest.approx(money)
    return JudgeSpend(requests, tokens, nearly)


def test_what_a_training_run_holds(tmp_path: Path) -> None:
    config = training(tmp_path)
    assert held_by_engines(config.rollout) == Held(1.5, 3.0)
    assert held_by_learner(config.learner) == Held(3.0, 2.0)
    assert held_by_training(config) == Held(1.5 + 3.0 + 0.5, 5.0)
    assert held_by_fleet(config) == Held(1.5 + 0.5, 3.0)
    assert held_by_fleet(config).share(4) == Held(0.5, 0.75)


def test_a_run_holds_its_shares_of_gpus(tmp_path: Path) -> None:
    config = training(
        tmp_path,
        rollout={"gpus_per_worker": 0.5},
        learner={"use_gpu": True, "gpus_per_worker": 0.5},
        reward={"type": "verifier", "service": {"num_replicas": 2, "num_cpus": 0.25, "num_gpus": 0.25}},
    )
    assert held_by_learner(config.learner) == Held(1.0, 0.5)
    assert held_by_training(config) == Held(1.0 + 1.0 + 0.5, 1.5)
    assert held_by_fleet(config) == Held(1.0 + 0.5, 1.0)


def held_of(meter: CostMeter) -> Held:
    return meter._held


def test_trials_share_the_engines_of_their_sweep(tmp_path: Path) -> None:
    config = training(tmp_path)
    assert held_of(trial_account(config, sharing=4)) == Held(3.0 + 0.5, 2.0 + 0.75)
    assert held_of(trial_account(config, sharing=None)) == held_of(training_account(config)) == Held(5.0, 5.0)


def test_tokens_of_a_training_run_are_those_that_were_trained_here(tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    write(metrics, {"step": 0, "tokens_generated": 500})
    with training_account(training(tmp_path)) as meter:
        write(metrics, {"step": 1, "tokens_generated": 60}, {"step": 2, "tokens_generated": 70})
        meter.generated(150)
    assert read_cost(tmp_path / "run" / "cost.json").total.tokens_trained == 130
    assert read_cost(tmp_path / "run" / "cost.json").total.tokens_generated == 150


def test_tokens_of_supervised_steps_and_of_samples(tmp_path: Path) -> None:
    sft = build_config(SftConfig, {"name": "sft", "runs_dir": str(tmp_path)})
    with supervised_account(sft, phase="train"):
        write(tmp_path / "sft" / "metrics.jsonl", {"step": 0, "tokens": 640})
        write(tmp_path / "sft" / "dynamics.jsonl", {"step": 0, "tokens_generated": 70.0}, {"step": 1})
    spent_on_sft = read_cost(tmp_path / "sft" / "cost.json").phases["train"]
    assert (spent_on_sft.tokens_trained, spent_on_sft.tokens_generated) == (640, 70)
    evaluate = build_config(
        EvaluateConfig, {"name": "e", "runs_dir": str(tmp_path), "adapters": {"base": None}}
    )
    samples = tmp_path / "e" / "evaluation" / "samples.jsonl"
    write(samples, {"num_tokens": 9})
    with evaluation_account(evaluate, phase="evaluate") as meter:
        write(samples, {"num_tokens": 5}, {"num_tokens": 6})
    assert held_of(meter) == held_by_engines(evaluate.rollout)
    assert read_cost(tmp_path / "e" / "cost.json").phases["evaluate"].tokens_generated == 11
    assert read_cost(tmp_path / "e" / "cost.json").judge is None


def test_a_line_without_tokens_has_none(tmp_path: Path) -> None:
    tokens = TokensOfLog(tmp_path / "log.jsonl", trained="tokens")
    write(tmp_path / "log.jsonl", {"step": 0}, {"step": 1, "tokens": 3})
    assert tokens() == Tokens(0, 3)
    assert tokens() == Tokens(0, 0)


def test_only_own_answers_are_paid_by_a_run(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, answer("me"))
    priced, unpriced = JudgeSpec.model_validate(PRICED), JudgeSpec.model_validate(JUDGE)
    of_me, all_of_me, free = (
        spend_of([Answers(path, spec, "me")], from_start)
        for spec, from_start in ((priced, False), (priced, True), (unpriced, False))
    )
    assert of_me is not None and all_of_me is not None and free is not None
    write(path, answer("me"), answer("another"), answer("me", (0, 0, 50)))
    assert of_me() == spent(2, 1150, MONEY + 50e-5)
    assert of_me() is None
    assert all_of_me() == spent(3, 2250, 2 * MONEY + 50e-5)
    assert free() == JudgeSpend(2, 1150, None)
    assert spend_of([]) is None


def judged_evaluation(tmp_path: Path) -> EvaluateConfig:
    values = {
        "name": "e",
        "runs_dir": str(tmp_path),
        "adapters": {"base": None},
        "judging": {"judge": PRICED},
    }
    return build_config(EvaluateConfig, values)


def test_an_evaluation_pays_its_judge_and_its_checker_also_across_a_kill(tmp_path: Path) -> None:
    folder, path = tmp_path / "e" / "judge", tmp_path / "e" / "cost.json"
    with evaluation_account(judged_evaluation(tmp_path)):
        write(folder / "answers.jsonl", answer("e"))
    write(
        folder / "answers.jsonl", answer("e"), answer("another")
    )  # paid, then killed before it was written down
    with evaluation_account(judged_evaluation(tmp_path)):
        write(folder / "checker_answers.jsonl", answer("e"))
    assert read_cost(path).judge == spent(3, 3300, 3 * MONEY)


def test_a_judge_that_rewards_is_paid_by_the_run_that_trains(tmp_path: Path) -> None:
    cache = tmp_path / "shared.jsonl"
    reward = {"type": "judge", "judge": PRICED, "cache_path": str(cache)}
    config = training(
        tmp_path, reward=reward, second_opinion={**reward, "type": "judge"}, task={"type": "creative_writing"}
    )
    write(cache, answer(""))
    for _ in range(2):
        with training_account(config):
            write(cache, answer(""))
        write(cache, answer(""))  # another run's
    assert read_cost(tmp_path / "run" / "cost.json").judge == spent(2, 2200, 2 * MONEY)


def test_the_judge_job_pays_from_its_own_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    values = {
        "name": "j",
        "runs_dir": str(tmp_path),
        "samples": "s",
        "judge": PRICED,
        "cache_dir": str(cache),
    }
    with judge_account(build_config(JudgeConfig, values)):
        write(cache / "answers.jsonl", answer("j"), answer("other"))
    record = read_cost(tmp_path / "j" / "cost.json")
    assert (record.job, list(record.phases)) == ("judge", ["judge"])
    assert record.judge == spent(1, 1100, MONEY)


def test_a_quickstart_adds_up_its_parts(tmp_path: Path) -> None:
    values = {"name": "q", "runs_dir": str(tmp_path), "arms": {"a": "a.yaml"}, "baseline_arm": "a"}
    config = build_config(QuickstartConfig, values)
    arm = training(tmp_path / "q")
    with quickstart_account(config, arm, [arm.run_dir, tmp_path / "q" / "missing"]) as meter:
        assert held_of(meter) == held_by_fleet(arm)
        meter.rest()
        with training_account(arm) as part:
            part.enter("train")
    record = read_cost(tmp_path / "q" / "cost.json")
    assert list(record.phases) == ["start", "run/start", "run/train"]
    parts = read_cost(arm.run_dir / "cost.json")
    assert record.phases["run/train"] == parts.phases["train"]


def test_a_sweep_adds_up_its_trials_and_pays_for_energy_itself(tmp_path: Path) -> None:
    config = load_config(
        SweepConfig,
        "configs/sweep/lambda_seed.yaml",
        [f"runs_dir={tmp_path}", "name=s", "prices={core_hour: 0.5}"],
    )
    plans = plan_trials(config)
    assert all(plan.config.prices == config.prices for plan in plans) and config.prices is not None
    with sweep_account(config, plans[0].config) as meter:
        assert held_of(meter) == held_by_fleet(plans[0].config)
        for plan in plans[:2]:
            with trial_account(plan.config, sharing=2):
                pass
    record = read_cost(tmp_path / "s" / "cost.json")
    first, second = (plan.trial_id for plan in plans[:2])
    assert list(record.phases) == ["start", f"trials/{first}/start", f"trials/{second}/start"]
    assert "energy is counted by the sweep" in read_cost(plans[0].config.run_dir / "cost.json").notes


def test_the_last_line_of_a_job_names_the_file_and_a_run_without_one_says_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = ProgressDisplay(console=Console(file=stream, width=300))
    show_cost(tmp_path, display)
    assert stream.getvalue() == ""
    record = CostRecord("train", 1, {"train": Amounts(core_s=5400.0, tokens_generated=2000)})
    (tmp_path / "cost.json").write_text(json.dumps(record.as_json()))
    show_cost(tmp_path, display)
    assert stream.getvalue() == (
        f"cost      1.5 core hours, 2,000 tokens generated   ({tmp_path / 'cost.json'})\n"
    )
