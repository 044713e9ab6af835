"""Plans of sweeps: trials before the start, and errors of impossible ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.cli.sweep import main
from polyray.config.loader import build_config
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.sweeps import run as sweep_run
from polyray.sweeps.plan import plan_trials, settings
from tests.job_checks import check_without_models

ROOT = Path(__file__).resolve().parents[3]
TRAIN = str(ROOT / "configs/train/hidden_trap_grid.yaml")
WEIGHT = "algorithm.diversity_weight"
RATE = "learner.learning_rate"


def sweep(**changes: Any) -> SweepConfig:
    values = {
        "name": "s",
        "train": TRAIN,
        "overrides": ["algorithm.quality_weight=1.0", "evaluation.every=5"],
        "parameters": {WEIGHT: {"grid": [0.0, 0.5]}},
    }
    return build_config(SweepConfig, {**values, **changes})


def test_every_point_of_the_grids_with_every_seed_in_an_order_that_stays() -> None:
    config = sweep(parameters={WEIGHT: {"grid": [0.0, 0.5]}, RATE: {"grid": [1e-4, 2e-4]}}, seeds=[3, 7])
    plans = plan_trials(config)
    assert config.num_trials == len(plans) == 8
    assert [(plan.parameters[WEIGHT], plan.parameters[RATE], plan.seed) for plan in plans] == [
        (weight, rate, seed) for weight in (0.0, 0.5) for rate in (1e-4, 2e-4) for seed in (3, 7)
    ]
    for plan in plans:
        trial = plan.config
        assert (trial.seed, trial.name, trial.learner.learning_rate) == (
            plan.seed,
            plan.trial_id,
            plan.parameters[RATE],
        )
        assert getattr(trial.algorithm, "diversity_weight") == plan.parameters[WEIGHT]  # noqa: B009
        assert trial.run_dir == Path.cwd() / "runs/s/trials" / plan.trial_id
    assert len({plan.trial_id for plan in plans}) == 8
    assert [plan.trial_id for plan in plan_trials(config)] == [plan.trial_id for plan in plans]


def test_draws_are_within_their_limits_and_come_again_from_the_same_seed() -> None:
    parameters = {
        WEIGHT: {"loguniform": [0.01, 10.0]},
        RATE: {"uniform": [1e-4, 2e-4]},
        "algorithm.set_size": {"choice": [2, 4]},
    }
    config = sweep(parameters=parameters, num_samples=200)
    drawn = list(settings(config))
    assert len(drawn) == config.num_trials == 200
    weights = np.array([point[WEIGHT] for point in drawn])
    assert weights.min() >= 0.01 and weights.max() < 10
    assert (
        abs(np.log(weights).mean() - np.log(0.01 * 10) / 2) < 0.45
    )  # 3 standard errors of a uniform logarithm
    rates = np.array([point[RATE] for point in drawn])
    assert rates.min() >= 1e-4 and rates.max() < 2e-4
    assert {point["algorithm.set_size"] for point in drawn} == {2, 4}
    assert list(settings(config)) == drawn
    assert list(settings(sweep(parameters=parameters, num_samples=200, seed=1))) != drawn


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"algorithm.diversity_wieght": {"grid": [1.0]}}}, "'algorithm.diversity_weight'"),
        ({"parameters": {WEIGHT: {"grid": []}}}, r"diversity_weight: grid .*empty"),
        ({"parameters": {WEIGHT: {"grid": [1.0], "choice": [2.0]}}}, r"\['choice', 'grid'\]"),
        ({"parameters": {WEIGHT: {"loguniform": [0.0, 1.0]}}}, "low > 0 .*loguniform"),
        ({"parameters": {"seed": {"grid": [1, 2]}}}, r"parameters\.seed: .*seeds"),
        ({"seeds": [1, 1]}, "seeds.*twice"),
        ({"num_samples": 4}, "num_samples=4"),
        ({"parameters": {WEIGHT: {"grid": [0.0, -1.0]}}}, r"trial t001-\w+ \(algorithm.diversity_weight=-1.0\)"),
        ({"parameters": {RATE: {"grid": list(range(1, 10_002))}}}, "10,001 trials.* 10,000"),
        ({"parameters": {"rollout.max_completion_tokens": {"grid": [8, 10]}}}, "fleet.mode=per_trial"),
        ({"parameters": {"model.path": {"grid": ["embedded", "qwen"]}}}, "model.path .*'embedded' .*t000"),
        ({"metric": "pass_at_3"}, "metric='pass_at_3' "),
        ({"overrides": ["algorithm.quality_weight=1.0"], "scheduler": {"type": "asha"}}, r"evaluation.every=10"),
    ],
)  # fmt: skip
def test_plan_refuses_trials_that_could_not_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_trials(sweep(**changes))


OPTUNA = {"type": "optuna", "num_settings": 2}
RANGE = {"parameters": {WEIGHT: {"uniform": [0.0, 1.0]}}}
PAIR = [{"metric": "pass_at_1"}, {"metric": "diversity"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"type": "optuna"}}, r"search.num_settings"),
        ({"search": {"num_settings": 2}}, r"'search.num_settings'"),
        ({"search": OPTUNA, **RANGE, "num_samples": 3}, r"num_samples.* search.num_settings"),
        ({"search": OPTUNA | {"num_settings": 3}}, r"2 combinations"),
        ({"search": OPTUNA | {"objectives": PAIR}, "scheduler": {"type": "asha"}}, r"scheduler.type=none"),
        ({"search": OPTUNA | {"objectives": PAIR * 2}}, r"objectives=.*twice"),
        ({"search": OPTUNA | {"objectives": [{"metric": "pass_at_3"}]}}, r"pass_at_3"),
        ({"search": OPTUNA, "overrides": ["algorithm.quality_weight=1.0"]}, r"search\.type=optuna .*every"),
        ({"search": OPTUNA | {"num_settings": 9_000}, **RANGE, "seeds": [0, 1]}, r"18,000 trials, .*search"),
        ({"search": OPTUNA, "parameters": {WEIGHT: {"uniform": [-1.0, 1.0]}}}, r"diversity_weight=-1.0\)"),
        ({"search": OPTUNA, "parameters": {WEIGHT: {"choice": [0.0, 0.5, -2.0]}}}, r"diversity_weight=-2.0\)"),
        ({"search": OPTUNA, "parameters": {"learner.steps": {"uniform": [2, 8]}}}, r"learner.steps=5.708204\)"),
        ({"search": OPTUNA, "parameters": {"learner.step": {"uniform": [2, 8]}}}, r"did you mean 'learner.steps'"),
        ({"search": OPTUNA, "parameters": {"rollout.max_completion_tokens": {"choice": [8, 10]}}}, r"mode=per_trial"),
    ],
)  # fmt: skip
def test_plan_refuses_searches_that_could_not_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_trials(sweep(**changes))


def test_search_plan_combines_all_ends_only_if_few() -> None:
    rate = {"loguniform": [1e-4, 2e-4]}
    plans = plan_trials(sweep(search=OPTUNA, parameters={WEIGHT: {"choice": [0.0, 0.5]}, RATE: rate}))
    between = 1e-4 + 0.618034e-4
    assert [tuple(plan.parameters.values()) for plan in plans] == [
        (weight, pytest.approx(rate)) for weight in (0.0, 0.5) for rate in (1e-4, between, 2e-4)
    ]
    many = {
        WEIGHT: {"choice": [n / 8 for n in range(8)]},
        "rollout.temperature": {"grid": [1 + n / 8 for n in range(8)]},
        RATE: rate,
    }
    points = [tuple(plan.parameters.values()) for plan in plan_trials(sweep(search=OPTUNA, parameters=many))]
    assert len(points) == 8 + 8 + 3, "not the product of 192"
    assert points[7] == (7 / 8, 1.0, 1e-4) and points[15] == (0.0, 15 / 8, 1e-4) and points[18][2] == 2e-4


def test_a_scheduler_goes_with_a_search_for_one_objective() -> None:
    one = OPTUNA | {"objectives": PAIR[:1]}
    assert plan_trials(sweep(search=one, scheduler={"type": "asha"}))
    assert sweep(search=one).objectives[0].metric == "pass_at_1"
    assert [(o.metric, o.mode) for o in sweep(search=OPTUNA, metric="diversity", mode="min").objectives] == [
        ("diversity", "min")
    ]


def test_request_settings_may_differ_on_a_shared_fleet_and_others_need_one_per_trial() -> None:
    plan_trials(sweep(parameters={"rollout.temperature": {"grid": [0.8, 1.0]}}))
    other = {"rollout.max_completion_tokens": {"grid": [8, 10]}}
    plans = plan_trials(sweep(parameters=other, fleet={"mode": "per_trial"}))
    assert [plan.config.rollout.max_completion_tokens for plan in plans] == [8, 10]


def test_check_shows_the_trials(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_without_models(main, [str(ROOT / "configs/sweep/lambda_seed.yaml")]) == 0
    shown = capsys.readouterr().out
    assert '"trials": 12' in shown and '"settings": 4' in shown and '"at_once": 3' in shown


@pytest.mark.parametrize(("mode", "fleets"), [("shared", 1), ("per_trial", 2)])
def test_concurrent_trials_place_engines_by_mode(
    monkeypatch: pytest.MonkeyPatch, mode: str, fleets: int
) -> None:
    config = sweep(fleet={"mode": mode}, seeds=[1, 2], max_concurrent_trials=2)
    placed: list[Any] = []
    monkeypatch.setattr(sweep_run, "check_placement", lambda parts, lower: placed.extend(parts))
    plans = plan_trials(config)
    sweep_run.check_resources(config, plans)
    workers = plans[0].config.rollout.num_workers
    counts = {part.what: part.count for part in placed}
    assert counts == {"engine": fleets * workers, "reward replica": fleets, "learner rank": 2, "trial": 2}
