"""The file of polyray sft."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from polyray.config.idle import check_idle
from polyray.config.learner import LearnerSpec
from polyray.config.model import ModelSpec, check_whole_base
from polyray.config.monitors import MonitorSpec, check_names, preset_monitors
from polyray.config.periodic_eval import DynamicsSpec, EvalPlan
from polyray.config.run_base import RunBase
from polyray.config.supervised import (
    BaLoraSpec,
    CrossEntropySpec,
    JsonlDataSpec,
    SupervisedDataSpec,
    SupervisedEvaluationSpec,
    SupervisedObjectiveSpec,
    TaskDataSpec,
)
from polyray.config.supervised_term import PolychromicSftSpec
from polyray.config.task import HiddenTrapGridSpec, TaskSpec


class SftConfig(RunBase):
    """polyray sft: LoRA fine-tuning on demonstrations, e.g. the warm start of an RL run."""

    model: ModelSpec = Field(default_factory=ModelSpec)
    task: TaskSpec = HiddenTrapGridSpec()
    data: SupervisedDataSpec = Field(
        default=TaskDataSpec(), description="the demonstrations: the task's, or a file"
    )
    objective: SupervisedObjectiveSpec = Field(default=CrossEntropySpec(), description="the loss")
    learner: LearnerSpec = LearnerSpec()
    evaluation: SupervisedEvaluationSpec = SupervisedEvaluationSpec()
    dynamics: DynamicsSpec | None = Field(
        default=DynamicsSpec(), description="quality and diversity over time; null: not measured"
    )
    monitors: tuple[MonitorSpec, ...] = Field(
        default_factory=lambda: preset_monitors("collapse"),
        description='alarms; by default ["@collapse"], replaced by a list of your own',
    )
    demonstrations_per_step: int = Field(default=64, ge=1, description="demonstrations of an optimiser step")
    epochs: float | None = Field(
        default=None, gt=0, description="passes over the rows of data.type=jsonl; replaces learner.steps"
    )
    max_tokens: int = Field(default=64, ge=2, description="longest prompt + response")
    too_long: Literal["error", "drop", "truncate"] = Field(
        default="error", description="rows above max_tokens; truncate cuts the end of the response"
    )
    completion_only: bool = Field(default=True, description="false: the prompt's tokens are trained, too")
    packing: bool = Field(
        default=False, description="several rows in one sequence of max_tokens, unseen by each other"
    )

    def eval_plan(self, num_steps: int) -> EvalPlan | None:
        """Rounds on the fixed prompts; None: no rounds."""
        if self.dynamics is None:
            return None
        plan = self.dynamics.plan(num_steps, self.demonstrations_per_step)
        return replace(plan, encoder=self.dynamics.encoder_for(self.task))

    @model_validator(mode="after")
    def _objective_fits(self) -> SftConfig:
        check_names(self.monitors)
        check_whole_base(self.model, self.learner.sharding)
        if isinstance(self.objective, BaLoraSpec) and (self.model.warm_start or self.model.lora.dropout > 0):
            raise ValueError(
                f"objective ba_lora starts from principal components: model.warm_start={self.model.warm_start} must "
                f"be null and model.lora.dropout={self.model.lora.dropout} must be 0"
            )
        if isinstance(self.objective, BaLoraSpec) and self.model.quantization != "none":
            raise ValueError(
                "objective ba_lora takes the principal components of the base's weights, which "
                f"model.quantization={self.model.quantization} does not keep; set model.quantization=none"
            )
        if isinstance(self.objective, PolychromicSftSpec):
            _check_polychromic_sft(self)
            check_idle(self.objective, "objective")
        return self

    @model_validator(mode="after")
    def _data_fits(self) -> SftConfig:
        if isinstance(self.data, JsonlDataSpec):
            if self.evaluation.every is not None and not self.data.has_validation:
                raise ValueError(
                    "evaluation.every without validation rows; set data.validation or data.validation_share"
                )
            return self
        if self.epochs is not None:
            raise ValueError(
                f"epochs={self.epochs}: the demonstrations of a task are an endless stream; set "
                "learner.steps, or data.type=jsonl"
            )
        if self.too_long == "drop":
            raise ValueError(
                "too_long='drop' needs data.type=jsonl; raise max_tokens, or set too_long=truncate"
            )
        if self.evaluation.every is not None and self.task.type != "hidden_trap_grid":
            raise ValueError(
                f"evaluation.every with task.type={self.task.type}: training sees all its demonstrations; give "
                "data.type=jsonl with data.validation or data.validation_share"
            )
        return self


def _check_polychromic_sft(config: SftConfig) -> None:
    unknown = {
        "data.type=jsonl": isinstance(config.data, JsonlDataSpec),
        "packing": config.packing,
        "evaluation.every": config.evaluation.every is not None,
        "completion_only=false": not config.completion_only,
        f"too_long={config.too_long}": config.too_long != "error",
    }
    given = [name for name, is_given in unknown.items() if is_given]
    if given:
        raise ValueError(
            f"objective polychromic samples on the prompts of `task` and knows no {', '.join(given)}; leave them out "
            "(your own rows: task.type=jsonl, each with prompt or messages and a response)"
        )
