"""What jobs hold and spend: the account of a run, opened with what its configuration reserves (not a job itself).

Neither torch nor Ray is needed. The file itself: polyray/runs/cost.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, QuickstartConfig, SftConfig, TrainConfig
from polyray.config.run_base import RunBase
from polyray.config.sweep import SweepConfig
from polyray.extensions import find
from polyray.runs.cost import START, CostMeter, Held, Sources, Tokens
from polyray.runs.cost_record import JudgeSpend, add_judges, cost_line, read_cost
from polyray.runs.energy import EnergyMeter
from polyray.runs.log_tail import LogTail
from polyray.runs.run_directory import RunPaths

if TYPE_CHECKING:
    from polyray.runs.progress import Display

DRIVER = Held(cpus=1.0)
"""A job that does all its work in its own process."""


def held_by_learner(learner: LearnerSpec) -> Held:
    """Its ranks."""
    return _held([learner_ranks(learner)])


def held_by_engines(rollout: RolloutSpec) -> Held:
    """The rollout workers."""
    return _held([engines(rollout)])


def held_by_training(config: TrainConfig) -> Held:
    """Engines, learner ranks, reward replicas."""
    return _held(training_parts(config))


def held_by_fleet(config: TrainConfig) -> Held:
    """What a training run holds but its learner: engines and reward replicas, which several runs may share."""
    return _held(fleet_parts(config))


def _held(parts: Sequence[Part]) -> Held:
    return Held(total(parts, CPU), total(parts, GPU))


def account(
    job: str,
    config: RunBase,
    held: Held,
    sources: Sources | None = None,
    *,
    phase: str = START,
    energy: EnergyMeter | None = None,
) -> CostMeter:
    """The account of a run, to be opened as a context."""
    path = RunPaths(config.run_dir).cost
    return CostMeter(path, job, held, phase=phase, prices=config.prices, sources=sources, energy=energy)


def training_account(
    config: TrainConfig, held: Held | None = None, energy: EnergyMeter | None = None
) -> CostMeter:
    """Account of a training run; `held` for one that shares engines. The coordinator counts samples."""
    sources = Sources(
        tokens=TokensOfLog(RunPaths(config.run_dir).metrics, trained="tokens_generated"),
        judge=spend_of(_judges_that_reward(config.reward, config.second_opinion)),
    )
    return account("train", config, held or held_by_training(config), sources, energy=energy)


def supervised_account(config: SftConfig, held: Held | None = None, phase: str = START) -> CostMeter:
    """Account of an SFT run; `held` for one with engines that wait beside it."""
    paths = RunPaths(config.run_dir)
    trained = TokensOfLog(paths.metrics, trained="tokens")
    of_rounds = TokensOfLog(paths.dynamics, generated="tokens_generated")
    sources = Sources(tokens=lambda: trained() + of_rounds())
    return account("sft", config, held or held_by_learner(config.learner), sources, phase=phase)


def evaluation_account(config: EvaluateConfig, held: Held | None = None, phase: str = START) -> CostMeter:
    """Account of an evaluation with its judges; `held` for one that shares engines."""
    from polyray.evaluation.passes import CHECKER_CACHE

    paths = RunPaths(config.run_dir)
    answers = _judges_that_reward(config.reward)
    from_start = not answers  # a file of several runs does not say what was paid for this one
    if config.judging is not None:
        own = (paths.judge / name for name in (ANSWERS_FILE, CHECKER_CACHE))
        answers += [Answers(path, config.judging.judge, config.name) for path in own]
    sources = Sources(
        tokens=TokensOfLog(paths.evaluation / "samples.jsonl", generated="num_tokens"),
        judge=spend_of(answers, from_start),
        judge_from_start=from_start,
    )
    return account("evaluate", config, held or held_by_engines(config.rollout), sources, phase=phase)


def judge_account(config: JudgeConfig) -> CostMeter:
    """Account of a judge run."""

    folder = RunPaths(config.run_dir).judge if config.cache_dir is None else Path(config.cache_dir)
    answers = [Answers(folder / ANSWERS_FILE, config.judge, config.name)]
    sources = Sources(judge=spend_of(answers, from_start=True), judge_from_start=True)
    return account("judge", config, DRIVER, sources, phase="judge")


def quickstart_account(config: QuickstartConfig, any_arm: TrainConfig, parts: Sequence[Path]) -> CostMeter:
    """Of a quickstart: what it does itself, and its parts, the runs at `parts`. They have its engines one by one."""
    paths = {part.name: RunPaths(part).cost for part in parts}
    return account("quickstart", config, held_by_fleet(any_arm), Sources(parts=lambda: paths))


def sweep_account(config: SweepConfig, any_trial: TrainConfig) -> CostMeter:
    """Of a sweep: what it does itself, its trials and its evaluation."""
    root = config.run_dir

    def parts() -> dict[str, Path]:
        trials = {f"trials/{path.parent.name}": path for path in sorted(root.glob("trials/*/cost.json"))}
        return trials | {"evaluation": root / "evaluation" / "cost.json"}

    held = held_by_fleet(any_trial) if config.fleet.mode == "shared" else Held()
    return account("sweep", config, held, Sources(parts=parts))


def trial_account(config: TrainConfig, sharing: int | None) -> CostMeter:
    """Of a sweep's trial; `sharing`: how many trials at a time have the engines, None where it has its own.

    Energy is counted by the sweep, because trials run at the same time.
    """
    held = None
    if sharing is not None:
        held = held_by_learner(config.learner) + held_by_fleet(config).share(sharing)
    return training_account(config, held, EnergyMeter([], ["energy is counted by the sweep"]))


def show_cost(run_dir: Path, display: Display) -> None:
    """The last line of a job. A run that was finished before costs were kept has none."""
    path = RunPaths(run_dir).cost
    if path.is_file():
        display.note(f"cost      {cost_line(read_cost(path))}   ({path})")


class TokensOfLog:
    """New tokens by the lines of a log, under the keys that a line has them under; None: it has none."""

    def __init__(self, path: Path, *, generated: str | None = None, trained: str | None = None) -> None:
        self._keys = generated, trained
        self._tail = LogTail(path)

    def __call__(self) -> Tokens:
        """Since the last call."""
        lines = self._tail.new()
        return Tokens(
            *(0 if key is None else int(sum(line.get(key, 0) for line in lines)) for key in self._keys)
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """A file of a judge's answers (polyray/shelf/judge/cache.py), where each is as soon as it is paid.

    Example:
        Answers(Path("runs/verdicts/judge/answers.jsonl"), JudgeSpec(...), owner="verdicts")
    """

    path: Path
    spec: JudgeSpec
    owner: str
    """Whose answers count; what others have paid into the same file does not."""


def spend_of(files: Sequence[Answers], from_start: bool = False) -> Callable[[], JudgeSpend | None] | None:
    """Asks what was paid since one last asked, at first from now or `from_start` on; None where there is no judge."""
    tails = [(answers, LogTail(answers.path, from_start=from_start)) for answers in files]

    def new() -> JudgeSpend | None:
        paid: JudgeSpend | None = None
        for answers, tail in tails:
            paid = add_judges(paid, _paid(answers, tail))
        return paid

    return new if tails else None


def _paid(answers: Answers, tail: LogTail) -> JudgeSpend | None:
    own = [line["answer"] for line in tail.new() if line.get("owner") == answers.owner]
    return find("judge_spend", "judge")(own, answers.spec.prices) if own else None


def _judges_that_reward(*rewards: RewardSpec | None) -> list[Answers]:
    """Their files belong to no run: runs at the same time with the same file count each other's answers."""
    judges = [reward for reward in rewards if isinstance(reward, JudgeRewardSpec)]
    files = {Path(reward.cache_path): reward.judge for reward in judges}
    return [Answers(path, spec, owner="") for path, spec in files.items()]
