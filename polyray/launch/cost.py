"""Cost meters of jobs: the resources that a configuration reserves and the logs that count tokens and judge spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.capacity.bundles import (
    CPU,
    GPU,
    Part,
    engines,
    fleet_parts,
    learner_ranks,
    total,
    training_parts,
)
from polyray.config.judge import ANSWERS_FILE, JudgeConfig, JudgeSpec
from polyray.config.learner import LearnerSpec
from polyray.config.reward import JudgeRewardSpec, RewardSpec
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.config.run_base import RunBase
from polyray.extensions import find
from polyray.rewards.plan import leaves_of
from polyray.runs.cost import Cost, CostMeter, Held, LogSum, cost_files, read_cost, sum_costs
from polyray.runs.run_directory import RunPaths

if TYPE_CHECKING:
    from polyray.runs.progress import Display

DRIVER = Held(cpus=1.0)
"""A job that does all its work in its own process."""
JUDGE = ("judge_requests", "judge_tokens", "judge_money")


def held_by(*parts: Part) -> Held:
    """Resources of parts of a run."""
    return Held(total(parts, CPU), total(parts, GPU))


def held_by_learner(learner: LearnerSpec) -> Held:
    """Resources of the learner ranks."""
    return held_by(learner_ranks(learner))


def held_by_fleet(config: TrainConfig) -> Held:
    """Resources of engines and reward replicas, which several runs may share."""
    return held_by(*fleet_parts(config))


def account(job: str, config: RunBase, held: Held, logs: Sequence[LogSum] = ()) -> CostMeter:
    """Meter of a run, to be opened as a context."""
    return CostMeter(RunPaths(config.run_dir).cost, job, held, prices=config.prices, logs=logs)


def training_account(config: TrainConfig, held: Held) -> CostMeter:
    """Meter of a training run. The coordinator counts generated tokens."""
    trained = _tokens(RunPaths(config.run_dir).metrics, "tokens_generated", "tokens_trained")
    logs = [trained, *_reward_judges(config.reward, config.second_opinion)]
    return account("train", config, held, logs)


def trial_account(config: TrainConfig, sharing: int | None) -> CostMeter:
    """Meter of a sweep's trial; `sharing` is the number of trials that share engines, None without."""
    if sharing is None:
        return training_account(config, held_by(*training_parts(config)))
    return training_account(config, held_by_learner(config.learner) + held_by_fleet(config).share(sharing))


def supervised_account(config: SftConfig, held: Held | None = None) -> CostMeter:
    """Meter of an SFT run; `held` if engines wait beside it."""
    paths = RunPaths(config.run_dir)
    logs = [
        _tokens(paths.metrics, "tokens", "tokens_trained"),
        _tokens(paths.dynamics, "tokens_generated", "tokens_generated"),
    ]
    return account("sft", config, held or held_by_learner(config.learner), logs)


def evaluation_account(config: EvaluateConfig, held: Held | None = None) -> CostMeter:
    """Meter of an evaluation with its judges; `held` if it shares engines."""
    from polyray.evaluation.passes import CHECKER_CACHE

    paths = RunPaths(config.run_dir)
    logs = [_tokens(paths.evaluation / "samples.jsonl", "num_tokens", "tokens_generated")]
    judges = _reward_judges(config.reward, getattr(config.checker, "reward", None))
    if config.judging is not None:
        whole = () if judges else JUDGE  # a shared file does not say what earlier starts have paid
        files = (paths.judge / name for name in (ANSWERS_FILE, CHECKER_CACHE))
        judges += [_answers(file, config.judging.judge, config.name, whole) for file in files]
    return account("evaluate", config, held or held_by(engines(config.rollout)), [*logs, *judges])


def judge_account(config: JudgeConfig) -> CostMeter:
    """Meter of a judge run."""
    folder = RunPaths(config.run_dir).judge if config.cache_dir is None else Path(config.cache_dir)
    return account(
        "judge", config, DRIVER, [_answers(folder / ANSWERS_FILE, config.judge, config.name, JUDGE)]
    )


def show_cost(run_dir: Path, display: Display) -> None:
    """Print the last line of a job: the cost of the run with its parts."""
    path = RunPaths(run_dir).cost
    if path.is_file():
        whole = sum_costs(read_cost(file) for file in cost_files(run_dir))
        display.note(f"cost      {replace(whole, starts=read_cost(path).starts).line()}   ({path})")


def _tokens(path: Path, key: str, field: str) -> LogSum:
    return LogSum(path, lambda line: replace(Cost(), **{field: int(line.get(key) or 0)}), whole=(field,))


def _answers(path: Path, spec: JudgeSpec, owner: str, whole: Sequence[str] = ()) -> LogSum:
    """Answers in `path` that `owner` paid for (polyray/shelf/judge/cache.py)."""

    def spend(line: Mapping[str, Any]) -> Cost:
        return (
            find("judge_spend", "judge")([line["answer"]], spec.prices) if line["owner"] == owner else Cost()
        )

    return LogSum(path, spend, whole=whole)


def _reward_judges(*rewards: RewardSpec | None) -> list[LogSum]:
    """Answers from now on. Their files belong to no run: simultaneous runs count each other's answers."""
    parts = [part for reward in rewards if reward is not None for part in leaves_of(reward)]
    judges = {Path(part.cache_path): part.judge for part in parts if isinstance(part, JudgeRewardSpec)}
    return [_answers(path, spec, owner="") for path, spec in judges.items()]
