"""The trials of a sweep, written out and checked before anything starts (not a job itself).

Draws come from the sweep's own seed, so a sweep that is started again has the same trials under the same names, and
every trial finds its run directory. Suggestions of a search are not known beforehand: the ends of its parameters are
checked. Neither torch nor Ray is needed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyray.capacity.bundles import CPU, Part, fleet_parts, learner_ranks, times
from polyray.capacity.threads import sharing_cores
from polyray.config.base import as_json
from polyray.config.loader import load_config
from polyray.config.passes import INSTEAD, check_metric, has_passes
from polyray.config.paths import relative_to
from polyray.config.run import TrainConfig
from polyray.config.sweep import ARM, MANY_TRIALS, ParameterSpec, SweepConfig
from polyray.config.tracking import as_one_experiment
from polyray.errors import ConfigError

OWN_OF_TRIAL = frozenset(
    {
        "prompts_per_step",
        "group_size",
        "temperature",
        "dispatch",
        "share",
        "max_worker_replacements",
        "group_timeout_s",
    }
)
"""Keys of `rollout` that a request or a coordinator uses, so trials of one fleet may differ in them."""
MAX_CORNERS = 64
"""Combinations of ends that are checked; more would be felt at the start."""
GOLDEN = 0.618034
TRIAL_CPUS = 0.01
"""CPUs of a trial's own process: the actors that it starts do the work, and ask for their own."""
SHARED_SECTIONS = ("task", "reward", "second_opinion", "diversity", "delivery")


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """One trial before it starts.

    Example:
        TrialPlan(trial_id="t003-3f9ac21b", parameters={"algorithm.diversity_weight": .5}, seed=1,
                  config=TrainConfig(...))
    """

    trial_id: str
    parameters: dict[str, Any]
    seed: int
    config: TrainConfig


def plan_trials(config: SweepConfig, allow_many: bool = False) -> list[TrialPlan]:
    """Every trial, seeds of one setting next to one another. ConfigError for trials that could not run.

    With a search: stand-ins at the ends of the parameters; later trials share what these share.
    """
    planned = config.search.type == "planned"
    if config.num_trials > MANY_TRIALS and not allow_many:
        fix = "make a grid smaller, draw with num_samples instead" if planned else "lower search.num_settings"
        raise ConfigError(
            f"the sweep has {config.num_trials:,} trials, more than {MANY_TRIALS:,}; {fix}, or say --yes"
        )
    points = ((parameters, seed) for parameters in settings(config) for seed in config.seeds)
    asked = points if planned else ((parameters, config.seeds[0]) for parameters in _ends(config))
    plans = [trial_plan(config, number, *point) for number, point in enumerate(asked)]
    _check_metrics(config, plans[0].config)
    if not config.arms:
        _check_axis(config, plans)
    if config.fleet.mode == "shared":
        _check_one_fleet(plans)
    return plans


def with_default_metric(config: SweepConfig) -> SweepConfig:
    """The sweep with `reward_mean` as its metric where none is named and no completion of its trials can pass."""
    if "metric" in config.model_fields_set:
        return config
    trial = load_config(TrainConfig, config.train, config.overrides)
    if has_passes(trial.reward, trial.task):
        return config
    return config.model_copy(update={"metric": INSTEAD})


def settings(config: SweepConfig) -> Iterator[dict[str, Any]]:
    """Dotted path -> value: every point of the grids, with `num_samples` draws of the others at each; `ARM` -> its
    name, where there are arms.
    """
    grids = {path: spec.grid for path, spec in config.parameters.items() if spec.grid is not None}
    drawn = {path: spec for path, spec in config.parameters.items() if not spec.is_grid}
    draw = np.random.default_rng(config.seed)
    arms = [{ARM: name} for name in config.arms] or [{}]
    for arm, *point in itertools.product(arms, *grids.values()):
        for _ in range(config.num_samples if drawn else 1):
            chosen = dict(zip(grids, point, strict=True))
            chosen |= {path: _drawn(spec, draw) for path, spec in drawn.items()}
            yield arm | {path: chosen[path] for path in config.parameters}


def _drawn(spec: ParameterSpec, draw: np.random.Generator) -> Any:
    if spec.choice is not None:
        return spec.choice[int(draw.integers(len(spec.choice)))]
    if spec.uniform is not None:
        return float(draw.uniform(*spec.uniform))
    assert spec.loguniform is not None
    low, high = spec.loguniform
    return float(math.exp(draw.uniform(math.log(low), math.log(high))))


def _ends(config: SweepConfig) -> Iterator[dict[str, Any]]:
    """Dotted path -> value: every listed value; of ranges both ends and, between them, no whole number.

    All combinations where they are few, else each parameter's with the others at their first.
    """
    ends = {path: spec.listed or _of_range(spec) for path, spec in config.parameters.items()}
    if math.prod(map(len, ends.values())) <= MAX_CORNERS:
        for point in itertools.product(*ends.values()):
            yield dict(zip(ends, point, strict=True))
        return
    first = {path: values[0] for path, values in ends.items()}
    for path, values in ends.items():
        for value in values:
            yield first | {path: value}


def _of_range(spec: ParameterSpec) -> tuple[float, ...]:
    low, high = spec.uniform or spec.loguniform or (0.0, 0.0)
    return low, low + (high - low) * GOLDEN, high


def trial_plan(config: SweepConfig, number: int, parameters: dict[str, Any], seed: int) -> TrialPlan:
    """The trial with this number: the same in every process. ConfigError where its run could not be built."""
    identity = json.dumps([parameters, seed], sort_keys=True)
    trial_id = f"t{number:03d}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    overrides = [*config.arms.get(parameters.get(ARM, ""), ())]
    overrides += [f"{path}={json.dumps(value)}" for path, value in parameters.items() if path != ARM]
    own = [f"seed={seed}", f"name={trial_id}", f"runs_dir={json.dumps(str(config.run_dir / 'trials'))}"]
    try:
        with relative_to(config.base_dir):
            trial = load_config(TrainConfig, config.train, [*config.overrides, *overrides, *own])
    except ConfigError as error:
        where = ", ".join(overrides) or "the first trial"
        raise ConfigError(f"trial {trial_id} ({where}): {error}") from None
    tracking = (as_one_experiment(spec, config.name, config.run_dir / "tracking") for spec in trial.tracking)
    own_of_sweep = {"tracking": tuple(tracking), "prices": config.prices or trial.prices}
    trial = sharing_cores(trial.model_copy(update=own_of_sweep), at_once(config))
    return TrialPlan(trial_id, parameters, seed, trial)


def _check_metrics(config: SweepConfig, trial: TrainConfig) -> None:
    asked = [("metric", config.metric), *(("search.objectives", each.metric) for each in config.objectives)]
    for key, metric in asked:
        try:
            check_metric(key, metric, trial.reward, trial.task)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if trial.evaluation is None:
        reader = "scheduler" if config.scheduler.type != "none" else "search"
        if getattr(config, reader).type not in ("none", "planned"):
            raise ConfigError(
                f"{reader}.type={getattr(config, reader).type} goes by the validation of trials, and {config.train} "
                "has none; add e.g. overrides: [evaluation.every=10]"
            )
        return
    known = trial.evaluation.metric_names
    for metric in (config.metric, *(objective.metric for objective in config.objectives)):
        if metric not in known:
            raise ConfigError(f"metric={metric!r} is not validated; choose one of {', '.join(known)}")


def _check_axis(config: SweepConfig, plans: list[TrialPlan]) -> None:
    """The results are drawn over the axis: it needs a number in every trial, or one for all where it is not swept."""
    if config.axis in config.parameters:
        values = [plan.parameters[config.axis] for plan in plans]
    else:
        fixed = (_value_at(plan.config, config.axis) for plan in plans)
        values = [next((value for value in fixed if value is not None), None)]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            numbers = ", ".join(config.parameters) or "none was swept"
            raise ConfigError(
                f"axis={config.axis!r} is {value!r} in the trials, and curves need a number; name a swept parameter "
                f"that is a number ({numbers}), or compare settings by `arms`"
            )


def _value_at(config: TrainConfig, path: str) -> Any:
    value: Any = as_json(config)
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _check_one_fleet(plans: list[TrialPlan]) -> None:
    """One engine serves all: what it is built from, and what the one reward service does, must be equal."""
    first = _fleet_of(plans[0].config)
    for plan in plans[1:]:
        other = _fleet_of(plan.config)
        different = [key for key in first if first[key] != other[key]]
        if different:
            key = different[0]
            raise ConfigError(
                f"trials of one fleet share engines and rewards, but {key} is {first[key]!r} in "
                f"{plans[0].trial_id} and {other[key]!r} in {plan.trial_id}; do not sweep it, or set "
                "fleet.mode=per_trial"
            )


def _fleet_of(config: TrainConfig) -> dict[str, Any]:
    """Dotted key -> value of everything that one fleet cannot have twice."""
    values = as_json(config)
    model = values["model"]
    base = {f"model.{key}": model[key] for key in ("path", "dtype", "quantization", "warm_start_mode")}
    if model["warm_start_mode"] != "continue":  # the warm start becomes part of the base
        base["model.warm_start"] = model["warm_start"]
    rollout = {f"rollout.{key}": value for key, value in values["rollout"].items() if key not in OWN_OF_TRIAL}
    return base | rollout | {key: values[key] for key in SHARED_SECTIONS}


def largest_rank(plans: list[TrialPlan]) -> int:
    """Largest rank of all trials' adapters."""
    return max(plan.config.model.lora.rank for plan in plans)


def derived_sizes(config: SweepConfig, plans: list[TrialPlan]) -> dict[str, Any]:
    """Sizes for `--check`."""
    from polyray.capacity.derived import derived_sizes as sizes_of_run

    sizes = sizes_of_run(plans[0].config)
    shown = [{"trial_id": plan.trial_id, "seed": plan.seed, **plan.parameters} for plan in plans[:12]]
    planned = config.search.type == "planned"
    return {
        "trials": config.num_trials,
        "at_once": at_once(config),
        "settings": config.num_trials // len(config.seeds),
        **({"first_trials": shown} if planned else {"checked_settings": len(plans)}),
        **gpus_at_once(config, plans[0].config, sizes.get("gpu_estimate", {})),
        "sizes_of_a_trial": sizes,
    }


def gpus_at_once(config: SweepConfig, trial: TrainConfig, estimate: dict[str, Any]) -> dict[str, float]:
    """GPUs of all trials that run at the same time, by the estimate of one; nothing where there is none."""
    if "gpus" not in estimate:
        return {}
    shared = 0.0
    if config.fleet.mode == "shared":
        shared = trial.rollout.num_workers * trial.rollout.gpus_per_worker
    return {"gpus_at_once": shared + at_once(config) * (estimate["gpus"] - shared)}


def at_once(config: SweepConfig) -> int:
    """Trials that run at the same time, at most."""
    return min(config.num_trials, config.max_concurrent_trials)


def parts_at_once(config: SweepConfig, plans: list[TrialPlan]) -> list[Part]:
    """Parts of all concurrent trials: engines and reward replicas, learner ranks, Tune's processes."""
    trial, num_at_once = plans[0].config, at_once(config)
    return [
        *times(fleet_parts(trial), 1 if config.fleet.mode == "shared" else num_at_once),
        *times([learner_ranks(trial.learner), Part("trial", 1, {CPU: TRIAL_CPUS})], num_at_once),
    ]


def trial_dir(config: SweepConfig, trial_id: str) -> Path:
    """A trial's run directory."""
    return config.run_dir / "trials" / trial_id
