"""The files that jobs read: one model per job."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.algorithm import AlgorithmSpec, GrpoSpec, PolychromicSpec
from polyray.config.base import StrictModel
from polyray.config.checker import CheckerSpec
from polyray.config.delivery import DeliverySpec, check_quantised
from polyray.config.evaluation import EvaluationSpec
from polyray.config.idle import check_idle
from polyray.config.judge import MAX_CLUSTER_CANDIDATES, JudgingSpec
from polyray.config.learner import LearnerSpec
from polyray.config.model import ModelSpec, check_whole_base
from polyray.config.monitors import MonitorSpec, check_names, preset_monitors
from polyray.config.objective import OfSetsSpec
from polyray.config.passes import INSTEAD, check_metric, has_passes
from polyray.config.paths import FilePath
from polyray.config.periodic_eval import DynamicsSpec, EvalPlan, TrainingEvaluationSpec
from polyray.config.presets import label
from polyray.config.prompts import ShortArm
from polyray.config.reward import (
    DiversitySpec,
    RewardSpec,
    VerifierRewardSpec,
    check_no_service,
    is_elsewhere,
)
from polyray.config.rollout import RolloutSpec
from polyray.config.run_base import RaySpec as RaySpec
from polyray.config.run_base import RunBase, RunName
from polyray.config.sft import SftConfig as SftConfig
from polyray.config.supervised_term import SupervisedTermSpec
from polyray.config.task import HiddenTrapGridSpec, TaskSpec
from polyray.config.text_tasks import TextTaskSpec
from polyray.config.tracking import TrackerSpec

ALGORITHM_IN_NAME = "{algorithm}"


class PretrainConfig(RunBase):
    """polyray pretrain: the embedded base model."""

    name: RunName = Field(default="pretrain", description="name of the run")
    cache_dir: FilePath = Field(default="~/.cache/polyray", description="directory of the model")
    task: HiddenTrapGridSpec = HiddenTrapGridSpec()
    steps: int = Field(default=1200, ge=1, description="optimiser steps")
    batch_rows: int = Field(default=128, ge=1, description="rows of a step")
    learning_rate: float = Field(default=3e-3, gt=0, description="learning rate of AdamW")
    num_threads: int = Field(default=2, ge=1, description="threads of torch")


class TrainConfig(RunBase):
    """polyray train: one RL run."""

    model: ModelSpec = Field(default_factory=ModelSpec)
    task: TaskSpec = HiddenTrapGridSpec()
    reward: RewardSpec = VerifierRewardSpec()
    second_opinion: RewardSpec | None = Field(
        default=None, description="scored and logged beside `reward`, never optimised"
    )
    monitors: tuple[MonitorSpec, ...] = Field(
        default_factory=lambda: preset_monitors("mismatch", "low_ess", "collapse"),
        description='alarms; by default ["@mismatch", "@low_ess", "@collapse"], replaced by a list of your own',
    )
    diversity: DiversitySpec = DiversitySpec()
    rollout: RolloutSpec = RolloutSpec()
    algorithm: AlgorithmSpec = Field(
        default=GrpoSpec(), description="a block with a type, or a preset, e.g. algorithm=@gspo"
    )
    learner: LearnerSpec = LearnerSpec()
    delivery: DeliverySpec = DeliverySpec()
    supervised: SupervisedTermSpec | None = Field(
        default=None, description="cross-entropy on the task's demonstrations, added to the objective"
    )
    evaluation: TrainingEvaluationSpec | None = Field(
        default=None, description="validation while training: the best version, early stopping"
    )
    dynamics: DynamicsSpec | None = Field(
        default=DynamicsSpec(),
        description="quality and diversity over time, in the rounds of `evaluation` where that is set; null: none",
    )
    tracking: tuple[TrackerSpec, ...] = Field(
        default=(), description="trackers that also show metrics.jsonl, e.g. [{type: tensorboard}]"
    )
    rollouts_logged_per_step: int = Field(
        default=1,
        ge=0,
        description="groups per step written in full to rollouts.jsonl, with the advantages in the loss",
    )

    @property
    def may_end_early(self) -> bool:
        """Whether validation may end the run before its last step."""
        return self.evaluation is not None and self.evaluation.patience is not None

    @property
    def reward_is_elsewhere(self) -> bool:
        """Whether a run needs no reward replica of its own."""
        return is_elsewhere(self.reward, self.second_opinion, self.diversity)

    @property
    def eval_plan(self) -> EvalPlan | None:
        """Rounds on the fixed prompts; None: no rounds."""
        steps, dynamics = self.learner.steps, self.dynamics
        if self.evaluation is not None:
            plan = self.evaluation.plan(steps)
        elif dynamics is not None:
            plan = dynamics.plan(steps, self.rollout.prompts_per_step * self.rollout.group_size)
        else:
            return None
        return replace(
            plan,
            semantic_distances=self.diversity.source == "embedding",
            encoder=None if dynamics is None else dynamics.encoder_for(self.task),
        )

    @model_validator(mode="before")
    @classmethod
    def _named_by_algorithm(cls, values: Any) -> Any:
        """Replaces {algorithm} in the name by the preset or type of the algorithm."""
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str) or ALGORITHM_IN_NAME not in name:
            return values
        chosen = label(values.get("algorithm")) or cls.model_fields["algorithm"].default.type
        return {**values, "name": name.replace(ALGORITHM_IN_NAME, chosen)}

    @model_validator(mode="after")
    def _metrics_fit_the_reward(self) -> TrainConfig:
        """Choose the highest reward as the best metric if there are no passes, unless a metric is named."""
        evaluation = self.evaluation
        if evaluation is not None and not has_passes(self.reward, self.task):
            if "best_metric" in evaluation.model_fields_set:
                check_metric("evaluation.best_metric", evaluation.best_metric, self.reward, self.task)
            else:
                by_reward = evaluation.model_copy(update={"best_metric": INSTEAD})
                object.__setattr__(self, "evaluation", by_reward)
        if self.learner.best_metric is not None:
            check_metric("learner.best_metric", self.learner.best_metric, self.reward, self.task)
        for monitor in self.monitors:
            for metric in monitor.metrics:
                check_metric(f"metric of monitor {monitor.name}", metric, self.reward, self.task)
        of_passes = self.algorithm.of_passes
        if of_passes is not None and not has_passes(self.reward, self.task):
            key, fix = of_passes
            raise ValueError(
                f"algorithm.{key} learns from completions with a reward of 1, and reward.type={self.reward.type} "
                f"with task.type={self.task.type} gives none; {fix}"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        check_names(self.monitors)
        check_idle(self.algorithm)
        _check_group(self.algorithm, self.rollout)
        _check_ranks(self.learner, self.rollout)
        _check_updates(self.algorithm, self.learner, self.rollout)
        _check_best(self.learner, self.evaluation)
        _check_sleep(self.learner, self.rollout)
        check_quantised(self.model, self.delivery.mode, self.rollout.tensor_parallel_size)
        check_whole_base(self.model, self.learner.sharding)
        if self.second_opinion is not None:
            check_no_service(self.second_opinion, "second_opinion")
        elif watching := [item.name for item in self.monitors if item.needs_second_opinion]:
            raise ValueError(
                f"monitor {watching[0]} reads second_opinion, and there is none; name one, e.g. "
                "second_opinion: {type: engagement, path: runs/reward-eval/model}"
            )
        if self.model.lora.dropout > 0:
            raise ValueError(
                f"model.lora.dropout={self.model.lora.dropout}: RL needs 0, else learner and engine "
                "disagree; set it to 0"
            )
        if (
            isinstance(self.algorithm, PolychromicSpec)
            and self.algorithm.quality_weight == self.algorithm.diversity_weight == 0
            and self.supervised is None
        ):
            raise ValueError(
                "quality_weight and diversity_weight are both 0: there is nothing to optimise; raise one"
            )
        if self.algorithm.needs_classes and self.diversity.source != "task_class":
            name = getattr(self.algorithm, "objective", self.algorithm.type)
            raise ValueError(
                f"algorithm {name!r} counts classes but diversity.source={self.diversity.source!r}; "
                "use diversity.source=task_class, or an objective of distances: pairwise or product"
            )
        return self


def _check_group(algorithm: AlgorithmSpec, rollout: RolloutSpec) -> None:
    if rollout.group_size < 2:
        raise ValueError(
            f"rollout.group_size={rollout.group_size}: a baseline within the group needs at least 2; raise it"
        )
    if rollout.group_size < algorithm.min_samples:
        needed, start = algorithm.min_samples, getattr(algorithm, "set_size", 1)
        end = algorithm.anneal.set_size if algorithm.anneal is not None else None
        k = max(start, end or 0)
        raise ValueError(
            f"algorithm.set_size={k} needs rollout.group_size >= set_size + {needed - k} = {needed}, "
            f"but it is {rollout.group_size}; raise group_size or lower set_size"
        )
    if algorithm.overlong_buffer > rollout.max_completion_tokens:
        raise ValueError(
            f"algorithm.overlong_buffer={algorithm.overlong_buffer} is wider than "
            f"rollout.max_completion_tokens={rollout.max_completion_tokens}; lower it"
        )
    _check_anneal(algorithm)


def _check_anneal(algorithm: AlgorithmSpec) -> None:
    anneal = algorithm.anneal
    if anneal is None:
        return
    if anneal.set_size is not None and not isinstance(algorithm, OfSetsSpec):
        raise ValueError(f"algorithm.anneal.set_size: {algorithm.type} has no sets; remove it")
    if anneal.diversity_weight is not None and not hasattr(algorithm, "diversity_weight"):
        raise ValueError(f"algorithm.anneal.diversity_weight: {algorithm.type} has no such weight; remove it")
    if anneal.set_size == 1 and algorithm.type == "polychromic":
        raise ValueError(
            "algorithm.anneal.set_size=1: a set of polychromic has at least 2; anneal to 2 or more"
        )


def _check_ranks(learner: LearnerSpec, rollout: RolloutSpec) -> None:
    if learner.num_workers > rollout.prompts_per_step:
        raise ValueError(
            f"learner.num_workers={learner.num_workers} exceeds "
            f"rollout.prompts_per_step={rollout.prompts_per_step}: "
            "a rank would have no group; lower the one or raise the other"
        )
    if learner.mini_batch_groups is not None and learner.mini_batch_groups > rollout.prompts_per_step:
        raise ValueError(
            f"learner.mini_batch_groups={learner.mini_batch_groups} exceeds "
            f"rollout.prompts_per_step={rollout.prompts_per_step}; lower it, or leave it out for the whole batch"
        )


def _check_updates(algorithm: AlgorithmSpec, learner: LearnerSpec, rollout: RolloutSpec) -> None:
    whole = learner.mini_batch_groups is None or learner.mini_batch_groups >= rollout.prompts_per_step
    if algorithm.covariance == "kl_cov" and whole and learner.updates_per_batch == 1:
        raise ValueError(
            "algorithm.covariance=kl_cov with learner.updates_per_batch=1: it holds tokens near the policy before "
            "the first update on a batch, so it needs a second one; set learner.updates_per_batch=2, or "
            f"learner.mini_batch_groups below rollout.prompts_per_step={rollout.prompts_per_step}"
        )


def _check_sleep(learner: LearnerSpec, rollout: RolloutSpec) -> None:
    more_engines = max(rollout.num_workers, rollout.max_workers or 1)
    if rollout.sleep_between_steps and max(learner.num_workers, more_engines) > 1:
        raise ValueError(
            "rollout.sleep_between_steps is for one engine and one learner rank on one GPU, but "
            f"learner.num_workers={learner.num_workers} and rollout.num_workers={more_engines}; set both to 1 "
            "(without max_workers), or give each a GPU of its own"
        )


def _check_best(learner: LearnerSpec, evaluation: TrainingEvaluationSpec | None) -> None:
    if learner.keep_best and learner.best_metric is None and evaluation is None:
        raise ValueError(
            f"learner.keep_best={learner.keep_best} without a metric; set learner.best_metric (a key of "
            "metrics.jsonl, e.g. reward_mean), or evaluation for validation while training"
        )


class EvaluateConfig(RunBase):
    """polyray evaluate: any number of adapters, and the base, on the held-out prompts."""

    model: ModelSpec = Field(default_factory=ModelSpec)
    task: TaskSpec = HiddenTrapGridSpec()
    reward: RewardSpec = VerifierRewardSpec()
    rollout: RolloutSpec = RolloutSpec()
    delivery: DeliverySpec = DeliverySpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    adapters: dict[str, ShortArm] = Field(
        default_factory=dict,
        description="name -> adapter directory (null is the base model itself), or {adapter, prompt}",
    )
    compare_to: str | None = Field(
        default=None, description="the name all others are compared with; default the first"
    )
    checker: CheckerSpec | None = Field(
        default=None,
        description="what a pass is; null: the task's verifier, or its heuristic quality where it has none",
    )
    judging: JudgingSpec | None = Field(default=None, description="an LLM judges the samples as they come")

    @model_validator(mode="after")
    def _baseline_exists(self) -> EvaluateConfig:
        check_quantised(self.model, self.delivery.mode, self.rollout.tensor_parallel_size)
        if not self.adapters:
            raise ValueError(
                "adapters is empty; name at least one, e.g. adapters: {base: null, sft: runs/sft/adapter}"
            )
        if self.compare_to is not None and self.compare_to not in self.adapters:
            raise ValueError(f"compare_to={self.compare_to!r} is none of {list(self.adapters)}")
        by_judge = self.checker is not None and self.checker.type == "judge"
        if by_judge and (self.judging is None or self.judging.mode != "rubric"):
            raise ValueError("checker.type=judge needs a judge: set judging.mode=rubric and judging.judge")
        by_reward = self.checker is None or self.checker.type == "verifier"
        if by_reward and not isinstance(self.task, TextTaskSpec) and not has_passes(self.reward, self.task):
            raise ValueError(
                f"a pass would be a reward of 1, which reward.type={self.reward.type} does not give; set "
                "checker={type: reward_threshold, threshold: ...}"
            )
        _check_judged_samples(self.judging, self.evaluation.num_samples)
        if self.evaluation.exports and self.task.type != "code":
            raise ValueError(
                f"evaluation.exports={list(self.evaluation.exports)} are formats for programs, but "
                f"task.type={self.task.type}; leave them out"
            )
        return self


def _check_judged_samples(judging: JudgingSpec | None, num_samples: int) -> None:
    if judging is None:
        return
    judged = judging.samples_per_prompt or (num_samples if judging.mode == "cluster" else 1)
    if judged > num_samples:
        raise ValueError(
            f"judging.samples_per_prompt={judged} exceeds evaluation.num_samples={num_samples}; lower the one or "
            "raise the other"
        )
    if judging.mode == "cluster" and judged > MAX_CLUSTER_CANDIDATES:
        raise ValueError(
            f"judging.mode=cluster groups at most {MAX_CLUSTER_CANDIDATES} samples of a prompt, and there are "
            f"{judged}; set judging.samples_per_prompt to {MAX_CLUSTER_CANDIDATES} or less"
        )


class TrainingArmSpec(StrictModel):
    """One training run of a quickstart."""

    train: FilePath = Field(description="file of polyray train")
    sft: str | None = Field(
        default=None, description="name of the SFT that it starts from; null: the first one of `sft`"
    )
    overrides: tuple[str, ...] = Field(
        default=(), description="key=value for this arm, e.g. algorithm=@gspo; those for every arm come after"
    )


def _long_arm(value: Any) -> Any:
    return {"train": value} if isinstance(value, str) else value


ShortTrainingArm = Annotated[TrainingArmSpec, BeforeValidator(_long_arm)]
"""A TrainingArmSpec, or its file alone."""


class PreparationSpec(StrictModel):
    """One job that a quickstart runs before everything else; its run is where its own file says."""

    job: Literal["curate", "train_reward"] = Field(description="polyray curate data, or polyray train_reward")
    file: FilePath = Field(description="its file")


WARM_START = "warm start"
"""Name of the model that RL starts from, in evaluations that polyray puts together itself."""


class QuickstartConfig(RunBase):
    """polyray quickstart: pretrain, SFT, several arms, evaluation, report.

    Each entry is the file of a job that can be run alone; `overrides` go to every arm.
    """

    seeds: tuple[int, ...] = Field(default=(0,), description="seeds of every arm")
    pretrain: FilePath | None = Field(
        default="configs/pretrain.yaml",
        description="file of `polyray pretrain`, which makes the base; null: the files name a base that exists",
    )
    prepare: tuple[PreparationSpec, ...] = Field(
        default=(), description="jobs that are run first, in order, once for all seeds"
    )
    sft: FilePath | dict[RunName, FilePath] = Field(
        default="configs/sft/hidden_trap_grid.yaml",
        description="file of `polyray sft`, or name -> file; those with samples share the arms' engines",
    )
    arms: dict[str, ShortTrainingArm] = Field(
        min_length=1, description="arm name -> training file, or {train, sft, overrides}"
    )
    overrides: tuple[str, ...] = Field(default=(), description="key=value for every arm")
    evaluate: FilePath = Field(
        default="configs/evaluate/hidden_trap_grid.yaml",
        description="file of `polyray evaluate`; its adapters are replaced, but without `pretrain` its arms that "
        "have none stay",
    )
    baseline_arm: str = Field(description="the arm the others are compared with")
    serve: FilePath | None = Field(
        default=None, description="file of `polyray serve`, whose command is printed at the end; null: none"
    )

    @property
    def warm_starts(self) -> dict[str, str]:
        """Name of each SFT -> its file."""
        return self.sft if isinstance(self.sft, dict) else {WARM_START: self.sft}

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> QuickstartConfig:
        if self.baseline_arm not in self.arms:
            raise ValueError(f"baseline_arm={self.baseline_arm!r} is none of the arms {list(self.arms)}")
        if not self.warm_starts:
            raise ValueError("sft is empty; name at least one file")
        for name, arm in self.arms.items():
            if arm.sft is not None and arm.sft not in self.warm_starts:
                raise ValueError(f"arms.{name}.sft={arm.sft!r} is none of {list(self.warm_starts)}")
        if twice := sorted(self.arms.keys() & self.warm_starts.keys()):
            raise ValueError(f"{twice[0]!r} names an SFT and an arm; rename one")
        return self
