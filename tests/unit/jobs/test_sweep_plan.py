"""Plans, scheduling, retries and display of the trials of a sweep."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.console import Console

from polyray.cli.sweep import main
from polyray.config.loader import build_config
from polyray.config.sweep import SchedulerSpec, SweepConfig
from polyray.errors import ConfigError, DataError, LearnerError
from polyray.runs.cost import Cost
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunPaths
from polyray.sweeps import run as sweep_run
from polyray.sweeps.plan import TrialPlan, plan_trials, settings
from polyray.sweeps.run import _Watch, _with_own_file
from polyray.sweeps.scheduler import scheduler_of
from polyray.sweeps.study import check_axes, evaluation_of
from polyray.sweeps.table import ROWS, TrialTable, reason_of
from polyray.sweeps.trial import STEP, TRIAL, _tried_once
from tests.job_checks import check_without_models

ROOT = Path(__file__).resolve().parents[3]
TRAIN = str(ROOT / "configs/train/hidden_trap_grid.yaml")
WEIGHT = "algorithm.diversity_weight"
RATE = "learner.learning_rate"
OPTUNA = {"type": "optuna", "num_settings": 2}
RANGE = {"parameters": {WEIGHT: {"uniform": [0.0, 1.0]}}}
PAIR = [{"metric": "pass_at_1"}, {"metric": "diversity"}]


def sweep(**changes: Any) -> SweepConfig:
    values = {
        "name": "s",
        "train": TRAIN,
        "overrides": ["algorithm.quality_weight=1.0", "evaluation.every=5"],
        "parameters": {WEIGHT: {"grid": [0.0, 0.5]}},
    }
    return build_config(SweepConfig, {**values, **changes})


def test_plan_combines_every_grid_point_with_every_seed_in_a_fixed_order() -> None:
    config = sweep(parameters={WEIGHT: {"grid": [0.0, 0.5]}, RATE: {"grid": [1e-4, 2e-4]}}, seeds=[3, 7])
    plans = plan_trials(config)
    assert config.num_trials == len(plans) == 8
    assert [(plan.parameters[WEIGHT], plan.parameters[RATE], plan.seed) for plan in plans] == [
        (weight, rate, seed) for weight in (0.0, 0.5) for rate in (1e-4, 2e-4) for seed in (3, 7)
    ]
    for plan in plans:
        trial = plan.config
        assert (trial.seed, trial.name) == (plan.seed, plan.trial_id)
        assert trial.learner.learning_rate == plan.parameters[RATE]
        assert getattr(trial.algorithm, "diversity_weight") == plan.parameters[WEIGHT]  # noqa: B009
        assert trial.run_dir == Path.cwd() / "runs/s/trials" / plan.trial_id
    assert len({plan.trial_id for plan in plans}) == 8
    assert [plan.trial_id for plan in plan_trials(config)] == [plan.trial_id for plan in plans]


def test_arms_bring_their_overrides_and_are_crossed_with_parameters_and_seeds() -> None:
    arms = {"plain": ["algorithm=@drgrpo"], "set": ["algorithm=@polychromic", "algorithm.set_size=3"]}
    config = sweep(
        arms=arms, overrides=[], parameters={RATE: {"grid": [1e-4, 2e-4]}}, seeds=[3, 7], baseline="plain"
    )
    plans = plan_trials(config)
    assert config.num_trials == len(plans) == 8
    assert [(plan.parameters, plan.seed) for plan in plans] == [
        ({"arm": arm, RATE: rate}, seed) for arm in arms for rate in (1e-4, 2e-4) for seed in (3, 7)
    ]
    assert [plan.config.algorithm.type for plan in plans] == ["grpo"] * 4 + ["polychromic"] * 4
    assert getattr(plans[-1].config.algorithm, "set_size") == 3  # noqa: B009
    assert plans[-1].config.learner.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": []}, "baseline": "b"}, "'b' is none of the arms; name one of a"),
        ({"arms": {"a": []}}, "0.0 is none of the arms"),
        ({"baseline": "a"}, "name of an arm, and there are none"),
        ({"parameters": {}}, "neither parameters nor arms"),
        ({"arms": {"a": []}, "baseline": None, "search": OPTUNA}, "leave out the arms"),
    ],
)
def test_arms_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(**changes)


def test_settings_draw_within_limits_and_reproducibly() -> None:
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
    # 3 standard errors of a uniform logarithm
    assert abs(np.log(weights).mean() - np.log(0.01 * 10) / 2) < 0.45
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
        ({"parameters": {RATE: {"grid": [0.1]}}, "overrides": ["algorithm=@drgrpo"]}, r"axis=.* is None .*_rate"),
        ({"parameters": {"algorithm": {"choice": ["@grpo"]}}, "axis": "algorithm"}, r"axis=.*`arms`"),
        ({"overrides": ["algorithm.quality_weight=1.0"], "scheduler": {"type": "asha"}}, r"evaluation.every=10"),
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
def test_plan_refuses_trials_that_could_not_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_trials(sweep(**changes))


def test_search_plan_combines_all_ends_only_if_few() -> None:
    rate = {"loguniform": [1e-4, 2e-4]}
    plans = plan_trials(sweep(search=OPTUNA, parameters={WEIGHT: {"choice": [0.0, 0.5]}, RATE: rate}))
    between = 1e-4 + 0.618034e-4
    assert [tuple(plan.parameters.values()) for plan in plans] == [
        (weight, pytest.approx(rate)) for weight in (0.0, 0.5) for rate in (1e-4, between, 2e-4)
    ]
    weights, temperatures = ({"choice": [start + n / 8 for n in range(8)]} for start in (0, 1))
    many = {WEIGHT: weights, "rollout.temperature": temperatures, RATE: rate}
    points = [tuple(plan.parameters.values()) for plan in plan_trials(sweep(search=OPTUNA, parameters=many))]
    assert len(points) == 8 + 8 + 3, "not the product of 192"
    assert points[7] == (7 / 8, 1.0, 1e-4) and points[15] == (0.0, 15 / 8, 1e-4) and points[18][2] == 2e-4


def test_plan_accepts_a_scheduler_with_one_objective_and_request_settings_on_a_shared_fleet() -> None:
    one = OPTUNA | {"objectives": PAIR[:1]}
    assert plan_trials(sweep(search=one, scheduler={"type": "asha"}))
    objectives = sweep(search=OPTUNA, metric="diversity", mode="min").objectives
    assert [(o.metric, o.mode) for o in objectives] == [("diversity", "min")]
    assert plan_trials(sweep(parameters={"rollout.temperature": {"grid": [0.8, 1.0]}}))
    other = {"rollout.max_completion_tokens": {"grid": [8, 10]}}
    plans = plan_trials(sweep(parameters=other, fleet={"mode": "per_trial"}))
    assert [plan.config.rollout.max_completion_tokens for plan in plans] == [8, 10]


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("lambda_seed", {"trials": 12, "settings": 4, "at_once": 3}),
        ("optuna_pareto", {"trials": 24, "settings": 12}),
    ],
)
def test_check_shows_the_trials(file: str, shown: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(ROOT / f"configs/sweep/{file}.yaml")]
    assert check_without_models(main, arguments) == 0
    printed = capsys.readouterr().out
    assert all(f'"{name}": {count}' in printed for name, count in shown.items())
    with pytest.raises(ConfigError, match=r"trial t\d+-\w+ \(.*learner.steps=3.\d+|num_samples"):
        main([*arguments, "--check", "parameters={learner.steps: {uniform: [2, 4]}}"])


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


ENDED: list[str] = []


def end(trial: Any) -> None:
    ENDED.append(trial.trial_id)


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_scheduler_asks_the_worst_trial_once_to_end(kind: str) -> None:
    ENDED.clear()
    spec = SchedulerSpec.model_validate({"type": kind, "grace_steps": 1, "reduction_factor": 2.0})
    stored = cloudpickle.dumps(scheduler_of(spec, 4, end))  # type: ignore[reportPrivateImportUsage]
    scheduler = cloudpickle.loads(stored)  # Tune stores it with the state of the sweep
    scheduler.set_search_properties("pass_at_8", "max")
    trials = [Trial("run_trial", stub=True) for _ in range(4)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
    decisions = []
    waiting = SimpleNamespace(get_live_trials=lambda: [Trial("run_trial", stub=True)])
    for step in (1, 2, 3, 4):
        for badness, trial in enumerate(trials):  # the last trial is the worst
            result = {STEP: step, "pass_at_8": 0.01 * step - badness, "training_iteration": step}
            decisions.append(scheduler.on_trial_result(waiting, trial, result))  # type: ignore[arg-type]
    assert set(decisions) == {TrialScheduler.CONTINUE}
    assert trials[3].trial_id in ENDED and trials[0].trial_id not in ENDED
    assert type(scheduler_of(SchedulerSpec(), 4, end)) is FIFOScheduler, "none stops a trial by default"
    assert len(ENDED) == len(set(ENDED))


@pytest.mark.parametrize(
    ("error", "starts", "raised", "tries"),
    [
        (DataError("mine.jsonl:3: no text"), "aab", [DataError, LearnerError, DataError], 2),
        (RuntimeError("the device is lost"), "aa", [RuntimeError, RuntimeError], 2),
    ],
)
def test_trial_with_a_permanent_error_is_tried_once_per_start(
    error: Exception, starts: str, raised: list[type[Exception]], tries: int, tmp_path: Path
) -> None:
    tried = []
    for start, expected in zip(starts, raised, strict=True):
        with pytest.raises(expected, match=str(error)), _tried_once(tmp_path / "trial-0" / ".failed", start):
            tried.append(start)
            raise error
    assert len(tried) == tries


def test_training_file_edited_during_a_sweep_is_refused(tmp_path: Path) -> None:
    train, paths = tmp_path / "train.yaml", RunPaths(tmp_path / "s")
    paths.root.mkdir()

    def resumed(text: str) -> SweepConfig:
        train.write_text(text)
        config = sweep(train=str(train))
        return _with_own_file(config, plan_trials(config), paths)

    text = Path(TRAIN).read_text()
    resumed(text + "seed: 5\n")  # no trial has begun
    assert resumed(text).train == str(paths.root / "train.yaml")
    paths.tune.mkdir()
    resumed("# a comment\n" + text)
    with pytest.raises(
        ConfigError, match=r"has changed since the sweep began:\n  rollout\.group_size: 16 -> 8"
    ):
        resumed(text.replace("group_size: 16", "group_size: 8"))
    assert (paths.root / "train.yaml").read_text() == "# a comment\n" + text


def test_resumed_sweep_counts_earlier_trials_and_names_one_that_is_tried_again(tmp_path: Path) -> None:
    config = sweep(runs_dir=str(tmp_path))
    plan, stream = plan_trials(config)[1], io.StringIO()
    display = ProgressDisplay(console=Console(file=stream, width=200))
    searcher: Any = SimpleNamespace(plan=lambda number: plan, num_left=0)
    watch = _Watch(config, searcher, 1, None, display)
    error_file = tmp_path / "error.txt"
    error_file.write_text("Traceback\npolyray.errors.LearnerError: rank 0 was lost\n")
    trial = SimpleNamespace(config={TRIAL: 1}, error_file=str(error_file))
    watch.on_trial_recover(0, [], trial)
    assert f"{plan.trial_id} failed and is tried again: " in stream.getvalue()
    assert "rank 0 was lost" in stream.getvalue()
    searcher.num_left = 1  # the other one ended in an earlier start
    now = 0.0
    display = ProgressDisplay(console=Console(file=stream, width=200), clock=lambda: now)
    watch = _Watch(config, searcher, 1, None, display)
    display.section("trials", 1, 2)
    now = 10.0
    watch.on_trial_start(0, [], trial)
    now = 70.0
    display.update()
    assert stream.getvalue().endswith("[1/2] trials  1/2  elapsed 1:10\n"), "no pace yet"
    searcher.num_left = 0
    run_dir = plan.config.run_dir
    run_dir.mkdir(parents=True)
    (run_dir / "cost.json").write_text(json.dumps(asdict(Cost("train", 2, wall_s=3000.0))))
    watch.on_trial_complete(0, [], trial)
    assert watch._trial(1, plan).seconds == 3000.0, "of both starts"
    assert stream.getvalue().endswith("[1/2] trials  2/2  elapsed 1:10, left 0:00\n")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"quality": "pass_at_two"},
            "evaluation.quality='pass_at_two' is not a value of the evaluation's prompts",
        ),
        (
            {"criterion": "usq_at_8/length"},
            "choose one of pass_at_K, distinct_correct_at_K, best_at_K, usq_at_K, ",
        ),
        ({"diversity": "vendi_score"}, "add semantic to text_metrics"),
        ({"diversity": "self_bleu"}, "diversity='self_bleu' is better when it is small"),
        ({"diversity": "distinct_correct_at_99"}, "needs more samples than num_samples=16"),
    ],
)
def test_axes_of_a_sweep_that_no_evaluation_has_are_refused(asked: dict[str, str], message: str) -> None:
    config = sweep(evaluation={"config": str(ROOT / "configs/evaluate/hidden_trap_grid.yaml"), **asked})
    with pytest.raises(ConfigError) as error:
        check_axes(config, evaluation_of(config, plan_trials(config), []))
    assert message in str(error.value)


def test_trial_table_shows_running_trials_before_the_newest_ended_ones() -> None:
    now = 0.0
    display = ProgressDisplay(console=Console(file=io.StringIO(), force_terminal=False))
    table = TrialTable(display, "pass_at_8", 60, clock=lambda: now)
    for number in range(ROWS + 3):
        table.began(f"t{number:03d}", number % 2, {"algorithm.diversity_weight": 0.25})
        now += 1.0
    for number in (1, 0, 2):
        table.ended(f"t{number:03d}", "done")
    assert [row[0] for row in table.rows()] == [f"t{number:03d}" for number in range(3, ROWS + 3)]
    for number in range(5, ROWS + 3):
        table.ended(f"t{number:03d}", "stopped")
    table.reported("t004", 20, 0.4375)
    rows = table.rows()
    assert [row[0] for row in rows[:4]] == ["t003", "t004", f"t{ROWS + 2:03d}", f"t{ROWS + 1:03d}"]
    assert rows[1] == ["t004", "0", "diversity_weight=0.25", "runs", "20/60", "0.438", "0:23"]
    assert rows[2][3:] == ["stopped", "", "", "0:01"]
    table.reported("t003", 20, 0.5)
    table.ended("t003", "failed")
    table.began("t003", 0, {})
    assert table.rows()[1] == ["t003", "0", "", "runs", "", "", "0:00"], "a second try begins anew"


def test_reason_of_a_failure_is_its_message_without_traceback() -> None:
    traceback = (
        "Traceback (most recent call last):\n  File 'x'\npolyray.errors.ConfigError: a:\n  b -> c\nd\n"
    )
    assert reason_of(traceback) == "polyray.errors.ConfigError: a: b -> c d"
    assert reason_of("Killed") == "Killed"
    assert "process" in reason_of("")


@pytest.mark.parametrize(("status", "exit_code"), [("done", 0), ("failed", 1)])
def test_sweep_with_a_failed_trial_has_the_exit_code_of_a_failure(
    status: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(config: SweepConfig, plans: list[TrialPlan]) -> None:
        config.run_dir.mkdir()
        (config.run_dir / "trials.jsonl").write_text(
            json.dumps({"trial_id": "t000", "status": status}) + "\n"
        )

    monkeypatch.setattr("polyray.cli.sweep.run_sweep", ended)
    assert main([str(ROOT / "configs/sweep/lambda_seed.yaml"), f"runs_dir={tmp_path}"]) == exit_code
