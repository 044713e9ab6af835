"""Resources that jobs hold, and the logs that count their tokens and judge spend."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyray.capacity.bundles import engines, training_parts
from polyray.config.judge import JudgeConfig
from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
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
from polyray.runs.cost import Cost, CostMeter, Held, read_cost
from polyray.runs.progress import ProgressDisplay

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


def judge_spend(run_dir: Path) -> tuple[int, int, float | None]:
    cost = read_cost(run_dir / "cost.json")
    return cost.judge_requests, cost.judge_tokens, cost.judge_money


def test_training_run_holds_engines_learner_and_rewards(tmp_path: Path) -> None:
    config = training(tmp_path)
    assert held_by(engines(config.rollout)) == Held(1.5, 3.0)
    assert held_by_learner(config.learner) == Held(3.0, 2.0)
    assert held_of(training_account(config, whole(config))) == Held(1.5 + 3.0 + 0.5, 5.0)
    assert held_by_fleet(config) == Held(1.5 + 0.5, 3.0)
    assert held_by_fleet(config).share(4) == Held(0.5, 0.75)


def test_training_run_holds_shares_of_gpus(tmp_path: Path) -> None:
    config = training(
        tmp_path,
        rollout={"gpus_per_worker": 0.5},
        learner={"use_gpu": True, "gpus_per_worker": 0.5},
        reward={"type": "verifier", "service": {"num_replicas": 2, "num_cpus": 0.25, "num_gpus": 0.25}},
    )
    assert held_by_learner(config.learner) == Held(1.0, 0.5)
    assert held_of(training_account(config, whole(config))) == Held(1.0 + 1.0 + 0.5, 1.5)
    assert held_by_fleet(config) == Held(1.0 + 0.5, 1.0)


def whole(config: TrainConfig) -> Held:
    """Resources of a run with engines of its own."""
    return held_by(*training_parts(config))


def held_of(meter: CostMeter) -> Held | None:
    return meter._held


def test_trials_share_the_engines_of_their_sweep(tmp_path: Path) -> None:
    config = training(tmp_path)
    assert held_of(trial_account(config, sharing=4)) == Held(3.0 + 0.5, 2.0 + 0.75)
    assert (
        held_of(trial_account(config, sharing=None))
        == held_of(training_account(config, whole(config)))
        == Held(5.0, 5.0)
    )


def test_tokens_of_a_training_run_are_counted_over_all_starts(tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    write(metrics, {"step": 0, "tokens_generated": 500})
    for _ in range(2):
        with training_account(training(tmp_path), Held(1.0)) as meter:
            write(metrics, {"step": 1, "tokens_generated": 60}, {"step": 2})
            meter.generated(150)
    cost = read_cost(tmp_path / "run" / "cost.json")
    assert (cost.tokens_trained, cost.tokens_generated) == (620, 300)


def test_tokens_of_supervised_steps_and_of_samples(tmp_path: Path) -> None:
    sft = build_config(SftConfig, {"name": "sft", "runs_dir": str(tmp_path)})
    with supervised_account(sft):
        write(tmp_path / "sft" / "metrics.jsonl", {"step": 0, "tokens": 640})
        write(tmp_path / "sft" / "dynamics.jsonl", {"step": 0, "tokens_generated": 70.0}, {"step": 1})
    cost = read_cost(tmp_path / "sft" / "cost.json")
    assert (cost.tokens_trained, cost.tokens_generated) == (640, 70)
    evaluate = build_config(
        EvaluateConfig, {"name": "e", "runs_dir": str(tmp_path), "adapters": {"base": None}}
    )
    samples = tmp_path / "e" / "evaluation" / "samples.jsonl"
    with evaluation_account(evaluate) as meter:
        write(samples, {"num_tokens": 5}, {"num_tokens": 6})
    assert held_of(meter) == held_by(engines(evaluate.rollout))
    assert read_cost(tmp_path / "e" / "cost.json").tokens_generated == 11
    assert judge_spend(tmp_path / "e") == (0, 0, None)


def judged_evaluation(tmp_path: Path) -> EvaluateConfig:
    values = {
        "name": "e",
        "runs_dir": str(tmp_path),
        "adapters": {"base": None},
        "judging": {"judge": PRICED},
    }
    return build_config(EvaluateConfig, values)


def test_evaluation_pays_judge_and_checker_across_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "judge"
    with evaluation_account(judged_evaluation(tmp_path)):
        write(folder / "answers.jsonl", answer("e"))
    # Paid for by a start that was killed before it wrote its cost.
    write(folder / "answers.jsonl", answer("e"), answer("another"))
    with evaluation_account(judged_evaluation(tmp_path)):
        write(folder / "checker_answers.jsonl", answer("e"))
    assert judge_spend(tmp_path / "e") == (3, 3300, pytest.approx(3 * MONEY))


def test_training_run_pays_its_reward_judge(tmp_path: Path) -> None:
    cache = tmp_path / "shared.jsonl"
    reward = {"type": "judge", "judge": PRICED, "cache_path": str(cache)}
    config = training(
        tmp_path, reward=reward, second_opinion={**reward, "type": "judge"}, task={"type": "creative_writing"}
    )
    write(cache, answer(""))
    for _ in range(2):
        with training_account(config, whole(config)):
            write(cache, answer(""))
        write(cache, answer(""))  # another run's
    assert judge_spend(tmp_path / "run") == (2, 2200, pytest.approx(2 * MONEY))


@pytest.mark.parametrize(("judge", "money"), [(PRICED, MONEY), (JUDGE, None)])
def test_judge_job_pays_its_own_answers(judge: dict[str, Any], money: float | None, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    values = {"name": "j", "runs_dir": str(tmp_path), "samples": "s", "judge": judge, "cache_dir": str(cache)}
    with judge_account(build_config(JudgeConfig, values)):
        write(cache / "answers.jsonl", answer("j"), answer("other"))
    assert judge_spend(tmp_path / "j") == (1, 1100, money if money is None else pytest.approx(money))


def test_show_cost_names_the_file_and_sums_parts(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = ProgressDisplay(console=Console(file=stream, width=300))
    show_cost(tmp_path, display)
    assert stream.getvalue() == ""
    for run in (tmp_path, tmp_path / "trials" / "a"):
        run.mkdir(parents=True, exist_ok=True)
        (run / "cost.json").write_text(
            json.dumps(asdict(Cost("train", 1, core_s=2700.0, tokens_generated=1000)))
        )
    show_cost(tmp_path, display)
    assert stream.getvalue() == (
        f"cost      1.5 core hours, 2,000 tokens generated   ({tmp_path / 'cost.json'})\n"
    )
