"""Configuration of polyray sweep: fields that vary, the search, and the comparison of trials."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.base import StrictModel, default_type
from polyray.config.paths import FilePath
from polyray.config.run_base import RunBase

MANY_TRIALS = 10_000
SEED = "seed"
ARM = "arm"


class ParameterSpec(StrictModel):
    """The values of one field of the training run; exactly one of the keys."""

    grid: tuple[Any, ...] | None = Field(
        default=None, description="every value, crossed with all other grids; optuna: the same as choice"
    )
    choice: tuple[Any, ...] | None = Field(default=None, description="one of these, drawn for each sample")
    uniform: tuple[float, float] | None = Field(
        default=None, description="[low, high), drawn for each sample"
    )
    loguniform: tuple[float, float] | None = Field(
        default=None, description="[low, high), uniform in the logarithm, drawn for each sample"
    )

    @property
    def is_grid(self) -> bool:
        """Whether every value is tried."""
        return self.grid is not None

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """The values of a grid or a choice; None for a range."""
        return self.choice if self.grid is None else self.grid

    @model_validator(mode="after")
    def _one_kind(self) -> ParameterSpec:
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"{sorted(given) or 'nothing'} given; give one of grid, choice, uniform, loguniform"
            )
        ((name, value),) = given.items()
        if name in ("grid", "choice"):
            if not value:
                raise ValueError(f"{name} is empty: the sweep would have no trial; name at least one value")
        elif not value[0] < value[1] or (name == "loguniform" and value[0] <= 0):
            raise ValueError(f"{name}={list(value)}: it needs low < high, and low > 0 for loguniform")
        return self


class ObjectiveSpec(StrictModel):
    """One number that a search makes large or small."""

    metric: str = Field(description="of dynamics.jsonl, e.g. pass_at_1 or distinct_correct_at_8")
    mode: Literal["max", "min"] = Field(
        default="max", description="whether a larger or a smaller value is better"
    )


class PlannedSearchSpec(StrictModel):
    """Every setting is known before the first trial starts: points of the grids, and draws."""

    type: Literal["planned"] = "planned"


class OptunaSearchSpec(StrictModel):
    """Optuna suggests one setting after another, from the validations of those before."""

    type: Literal["optuna"] = "optuna"
    num_settings: int = Field(ge=1, description="settings that are tried, each with every seed")
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="tpe: tree-structured Parzen estimator; random: learns nothing"
    )
    num_random_settings: int | None = Field(
        default=None,
        ge=1,
        description="tpe: drawn at random until so many have a value; null: a third of num_settings, 10 at most",
    )
    objectives: tuple[ObjectiveSpec, ...] = Field(
        default=(),
        description="what is sought, by the last validation, mean over seeds; two or more: their Pareto front; "
        "none: the sweep's metric and mode",
    )

    @property
    def num_random(self) -> int:
        """`num_random_settings`, or its default."""
        return self.num_random_settings or min(10, math.ceil(self.num_settings / 3))

    @model_validator(mode="after")
    def _metrics_differ(self) -> OptunaSearchSpec:
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"objectives={metrics} names a metric twice; name each once")
        return self


SearchSpec = Annotated[
    PlannedSearchSpec | OptunaSearchSpec,
    Field(discriminator="type"),
    BeforeValidator(default_type("planned")),
]


class SchedulerSpec(StrictModel):
    """Early ends of trials, by the validation metric."""

    type: Literal["none", "asha", "median"] = Field(
        default="none", description="none: every trial runs to its end; asha, median: weak ones end early"
    )
    grace_steps: int = Field(default=20, ge=1, description="no trial ends before this step")
    reduction_factor: float = Field(default=3.0, gt=1, description="asha: one in so many continues")


class SweepFleetSpec(StrictModel):
    """Engines that trials sample from."""

    mode: Literal["shared", "per_trial"] = Field(
        default="shared", description="shared: all trials have one fleet; per_trial: each starts its own"
    )


class SweepEvaluationSpec(StrictModel):
    """Comparison of trials after their end."""

    config: FilePath = Field(
        default="configs/evaluate/hidden_trap_grid.yaml",
        description="file of polyray evaluate; its arms are ignored",
    )
    overrides: tuple[str, ...] = Field(default=(), description="key=value for the evaluation")
    quality: str = Field(default="pass_at_1", description="one axis of the Pareto front")
    diversity: str = Field(default="distinct_correct_at_8", description="the other one")
    criterion: str | None = Field(
        default=None, description="what the recommendation maximises; null: pass@k at the largest k"
    )
    margin: float = Field(default=0.02, ge=0, description="how much below the best is still near it")


class SweepConfig(RunBase):
    """polyray sweep: trials of one training run that differ in the named fields and in the seed."""

    train: FilePath = Field(description="file of polyray train that every trial starts from")
    overrides: tuple[str, ...] = Field(default=(), description="key=value for every trial")
    arms: dict[str, tuple[str, ...]] = Field(
        default={},
        description="name -> key=value: settings that differ in several fields, e.g. an algorithm with its own "
        "learning rate; crossed with the parameters",
    )
    parameters: dict[str, ParameterSpec] = Field(
        default={}, description="dotted path of a field of the training run -> its values"
    )
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="crossed with everything")
    num_samples: int = Field(
        default=1, ge=1, description="draws of the parameters that are no grid, for each point of the grids"
    )
    axis: str = Field(
        default="algorithm.diversity_weight",
        description="the swept weight that curves and tests are drawn over; with arms they are drawn over these",
    )
    baseline: float | str | None = Field(
        default=0.0,
        description="value of `axis`, or the arm, that the others are tested against; null: no tests",
    )
    metric: str = Field(
        default="pass_at_8",
        description="of dynamics.jsonl: what schedulers and the console table read; by default reward_mean where no "
        "reward of 1 can come",
    )
    mode: Literal["max", "min"] = Field(
        default="max", description="whether a larger or a smaller value is better"
    )
    search: SearchSpec = Field(default=PlannedSearchSpec(), description="how settings are chosen")
    scheduler: SchedulerSpec = SchedulerSpec()
    max_concurrent_trials: int = Field(default=4, ge=1, description="trials that train at the same time")
    max_failures: int = Field(default=1, ge=0, description="a trial that fails is tried again so often")
    fleet: SweepFleetSpec = SweepFleetSpec()
    evaluation: SweepEvaluationSpec = Field(default_factory=SweepEvaluationSpec)

    @property
    def num_trials(self) -> int:
        """Number of trials, over settings and seeds."""
        if isinstance(self.search, OptunaSearchSpec):
            return self.search.num_settings * len(self.seeds)
        grids = math.prod(len(spec.grid or (0,)) for spec in self.parameters.values())
        samples = 1 if all(spec.is_grid for spec in self.parameters.values()) else self.num_samples
        return max(1, len(self.arms)) * grids * samples * len(self.seeds)

    @property
    def objectives(self) -> tuple[ObjectiveSpec, ...]:
        """Metrics that the search sees of each trial; for a planned search the sweep's metric."""
        asked = self.search.objectives if isinstance(self.search, OptunaSearchSpec) else ()
        return asked or (ObjectiveSpec(metric=self.metric, mode=self.mode),)

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        if not self.parameters and not self.arms:
            raise ValueError("neither parameters nor arms: name what the trials differ in")
        self._check_baseline()
        if SEED in self.parameters:
            raise ValueError(
                "parameters.seed: seeds are crossed with everything; give them as seeds: [0, 1, 2]"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"seeds={list(self.seeds)} names one twice; every seed is one trial of a setting"
            )
        if isinstance(self.search, OptunaSearchSpec):
            self._check_optuna(self.search)
        elif self.num_samples > 1 and all(spec.is_grid for spec in self.parameters.values()):
            raise ValueError(
                f"num_samples={self.num_samples}, but every parameter is a grid: nothing is drawn; leave it out"
            )
        return self

    def _check_baseline(self) -> None:
        if not self.arms:
            if isinstance(self.baseline, str):
                raise ValueError(f"baseline={self.baseline!r} is the name of an arm, and there are none")
        elif self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(
                f"baseline={self.baseline!r} is none of the arms; name one of {', '.join(self.arms)}, or null"
            )

    def _check_optuna(self, search: OptunaSearchSpec) -> None:
        if self.arms:
            raise ValueError("search.type=optuna chooses values of parameters; leave out the arms")
        if self.num_samples > 1:
            raise ValueError(
                f"num_samples={self.num_samples} belongs to planned search; with search.type=optuna say how many "
                "settings are tried by search.num_settings"
            )
        if self.scheduler.type != "none" and len(self.objectives) > 1:
            names = ", ".join(objective.metric for objective in self.objectives)
            raise ValueError(
                f"scheduler.type={self.scheduler.type} ends trials by one metric, and search.objectives names "
                f"{len(self.objectives)} ({names}); set scheduler.type=none, or name one objective"
            )
        listed = [spec.listed for spec in self.parameters.values()]
        points = math.prod(len(values) for values in listed if values is not None)
        if None not in listed and search.num_settings > points:
            raise ValueError(
                f"search.num_settings={search.num_settings}, but the parameters have {points} combinations and "
                f"none is tried twice; ask for at most {points}, or name every one with search.type=planned"
            )
