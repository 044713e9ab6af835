"""Settings suggested by Optuna: each with every seed, told by the mean, and the same after any kill."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import ConcurrencyLimiter, SearchGenerator

from polyray.config.loader import build_config
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.report.sweep.trials import Trial
from polyray.sweeps.optuna import SETTING, OptunaSettings, open_study
from polyray.sweeps.plan import plan_trials, trial_plan
from polyray.sweeps.search import TrialSearcher, open_settings, search_note
from polyray.sweeps.trial import reported_metrics

ROOT = Path(__file__).resolve().parents[3]
TRAIN = str(ROOT / "configs/train/hidden_trap_grid.yaml")
WEIGHT = "algorithm.diversity_weight"
RATE = "learner.learning_rate"
SIZE = "algorithm.set_size"
SPACE = {
    WEIGHT: {"loguniform": [0.01, 10.0]},
    RATE: {"uniform": [1e-4, 2e-4]},
    SIZE: {"choice": [2, 4]},
}
PAIR = [{"metric": "pass_at_1"}, {"metric": "diversity", "mode": "min"}]
OPTUNA = {"type": "optuna", "num_settings": 6, "num_random_settings": 2}
Value = Callable[[dict[str, Any]], dict[str, float] | None]


def sweep(tmp_path: Path, **changes: Any) -> SweepConfig:
    values: dict[str, Any] = {
        "name": "s",
        "runs_dir": str(tmp_path),
        "train": TRAIN,
        "overrides": ["algorithm.quality_weight=1.0", "evaluation.every=5"],
        "parameters": SPACE,
        "seeds": [3, 7],
        "max_concurrent_trials": 1,
    }
    search = changes.pop("search", {})
    if search is not None:
        values["search"] = OPTUNA | search
    return build_config(SweepConfig, values | changes)


@dataclass
class TuneTrial:
    """The part of Tune's trials that the searcher reads."""

    trial_id: str
    config: dict[str, Any]
    ended: bool = False

    def is_finished(self) -> bool:
        return self.ended


class Tune:
    """Stand-in for Tune that asks, runs trials and restarts with them."""

    def __init__(self, config: SweepConfig, value: Value) -> None:
        self._config = config
        self._value = value
        self.trials: list[TuneTrial] = []
        self.restart()

    def restart(self) -> None:
        self.searcher = TrialSearcher(self._config, open_settings(self._config))
        self.searcher.adopt(self.trials)

    def ask(self) -> dict[str, Any] | str | None:
        trial_id = f"tune-{len(self.trials)}-{id(self.searcher)}"
        suggested = self.searcher.suggest(trial_id)
        if isinstance(suggested, dict):
            self.trials.append(TuneTrial(trial_id, suggested))
        return suggested

    def end(self, number: int) -> None:
        (trial,) = (t for t in self.trials if t.config["trial"] == number and not t.ended)
        trial.ended = True
        result = self._value(trial.config)
        self.searcher.on_trial_complete(trial.trial_id, result, error=result is None)

    def run(self, restart_each_time: bool = False) -> list[dict[str, Any]]:
        """Run all trials in turn and return their suggestions."""
        while isinstance(suggested := self.ask(), dict):
            if restart_each_time:
                self.restart()
            self.end(suggested["trial"])
            if restart_each_time:
                self.restart()
        assert suggested == "FINISHED" and self.searcher.num_left == 0
        return [trial.config for trial in self.trials]


def quality(config: dict[str, Any]) -> dict[str, float]:
    """Best at a weight of 1; worse by 0.1 with seed 7."""
    distance = abs(math.log10(config["parameters"][WEIGHT]))
    return {"pass_at_8": 0.9 - 0.2 * distance - 0.1 * (config["seed"] == 7)}


def test_searcher_suggests_every_setting_with_every_seed(tmp_path: Path) -> None:
    config = sweep(tmp_path)
    tune = Tune(config, quality)
    asked = tune.run()
    assert [(entry["trial"], entry["seed"]) for entry in asked] == [(n, (3, 7)[n % 2]) for n in range(12)]
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert first["parameters"] == second["parameters"]
    assert len({str(entry["parameters"]) for entry in asked}) == 6
    for entry in asked:
        assert list(entry["parameters"]) == list(SPACE)
        assert 0.01 <= entry["parameters"][WEIGHT] <= 10 and 1e-4 <= entry["parameters"][RATE] <= 2e-4
        assert entry["parameters"][SIZE] in (2, 4)
    plans = tune.searcher.plans()
    assert [plan.trial_id for plan in plans] == [
        trial_plan(config, entry["trial"], entry["parameters"], entry["seed"]).trial_id for entry in asked
    ]
    assert plans[5].trial_id.startswith("t005-") and plans[5].config.seed == 7
    assert plans[5].config.run_dir == tmp_path / "s" / "trials" / plans[5].trial_id


def test_suggestions_match_optuna_with_means_over_seeds(tmp_path: Path) -> None:
    config = sweep(tmp_path, seed=5)
    asked = Tune(config, quality).run()[::2]
    study = optuna.create_study(direction="maximize")
    for setting, entry in enumerate(asked):
        seed = int(np.random.SeedSequence((5, setting, 0)).generate_state(1)[0])
        study.sampler = TPESampler(seed=seed, n_startup_trials=2)
        trial = study.ask()
        expected = {
            WEIGHT: trial.suggest_float(WEIGHT, 0.01, 10.0, log=True),
            RATE: trial.suggest_float(RATE, 1e-4, 2e-4),
            SIZE: int(trial.suggest_categorical(SIZE, ["2", "4"])),
        }
        assert entry["parameters"] == expected
        study.tell(trial, quality(entry)["pass_at_8"] - 0.05)
    told = [trial.value for trial in open_study(config).trials]
    assert told == pytest.approx([trial.value for trial in study.trials])
    other = Tune(sweep(tmp_path / "other", seed=6), quality).run()
    assert other[0]["parameters"] != asked[0]["parameters"]
    asked = Tune(sweep(tmp_path / "random", search={"sampler": "random"}), quality).run()[::2]
    seed = int(np.random.SeedSequence((0, 5, 0)).generate_state(1)[0])
    trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
    assert asked[5]["parameters"][WEIGHT] == trial.suggest_float(WEIGHT, 0.01, 10.0, log=True)


def test_study_averages_seeds_with_a_value_and_fails_a_setting_without_any(tmp_path: Path) -> None:
    ends: list[dict[str, float] | None] = [
        {"pass_at_8": 0.25}, {"pass_at_8": 0.75},
        {"pass_at_8": 0.25}, None,
        None, {"pass_at_8": math.nan},
        {"other": 1.0}, {"pass_at_8": 0.5},
        {}, None,
        {"pass_at_8": 0.0}, {"pass_at_8": 0.5},
    ]  # fmt: skip
    config = sweep(tmp_path)
    Tune(config, lambda entry: ends[entry["trial"]]).run()
    trials = open_study(config).trials
    assert [trial.values for trial in trials] == [[0.5], [0.25], None, [0.5], None, [0.25]]
    failed = [trial.state == TrialState.FAIL for trial in trials]
    assert failed == [False, False, True, False, True, False]


def test_searcher_limits_concurrent_trials_and_completes_a_setting_with_its_last_seed(tmp_path: Path) -> None:
    config = sweep(tmp_path, max_concurrent_trials=3)
    tune = Tune(config, quality)
    assert [isinstance(tune.ask(), dict) for _ in range(4)] == [True, True, True, False]
    assert tune.searcher.num_left == 12
    tune.end(1)
    assert open_study(config).trials[0].state == TrialState.RUNNING
    tune.end(0)
    assert open_study(config).trials[0].state == TrialState.COMPLETE
    assert [isinstance(tune.ask(), dict) for _ in range(3)] == [True, True, False]
    assert [trial.config["trial"] for trial in tune.trials] == [0, 1, 2, 3, 4]
    assert tune.searcher.num_left == 10
    study = open_study(config)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] + [TrialState.RUNNING] * 2


def test_searcher_restarted_after_every_step_suggests_the_same(tmp_path: Path) -> None:
    unbroken = Tune(sweep(tmp_path / "a"), quality).run()
    assert Tune(sweep(tmp_path / "b"), quality).run(restart_each_time=True) == unbroken


def test_searcher_suggests_trials_missing_from_tune_again_unless_they_have_a_value(tmp_path: Path) -> None:
    tune = Tune(sweep(tmp_path, max_concurrent_trials=4), quality)
    asked = [tune.ask() for _ in range(4)]
    tune.end(0)
    tune.trials = tune.trials[1:2]  # an old state: Tune knows trial 1 only, and that it runs
    tune.restart()
    assert tune.searcher.num_left == 11
    assert [tune.ask(), tune.ask()] == asked[2:4]
    tune.end(1)
    assert [trial.config["trial"] for trial in tune.trials] == [1, 2, 3]


def test_retried_trial_is_recorded_once(tmp_path: Path) -> None:
    config = sweep(tmp_path, seeds=[0])
    tune = Tune(config, lambda entry: None)
    asked = tune.run()
    assert {trial.state for trial in open_study(config).trials} == {TrialState.FAIL}
    retried = TuneTrial("new-id", asked[2])  # Tune gives trials that it tries again new ids
    tune.trials = [trial for trial in tune.trials if trial.config["trial"] != 2] + [retried]
    tune.restart()
    assert tune.searcher.num_left == 1
    tune.searcher.on_trial_complete("new-id", {"pass_at_8": 0.75})
    tune.searcher.on_trial_complete("new-id", {"pass_at_8": 0.5})
    (found,) = (trial for trial in open_study(config).trials if trial.state == TrialState.COMPLETE)
    assert (found.value, found.user_attrs[SETTING]) == (0.75, 2)
    assert found.params[WEIGHT] == asked[2]["parameters"][WEIGHT]
    tune.restart()
    assert [plan.parameters for plan in tune.searcher.plans()] == [entry["parameters"] for entry in asked]


def test_searcher_killed_inside_a_suggestion_keeps_the_sequence(tmp_path: Path) -> None:
    unbroken = Tune(sweep(tmp_path / "a"), quality).run()
    config = sweep(tmp_path / "b")
    tune = Tune(config, quality)
    for number in range(4):
        tune.ask()
        tune.end(number)
    lost = open_study(config).ask()
    lost.suggest_float(WEIGHT, 0.01, 10.0, log=True)
    with (tmp_path / "b" / "s" / "study.jsonl").open("a") as file:
        file.write('{"op_code": 4, "worker')
    tune.restart()
    assert tune.run() == unbroken
    assert open_study(config).trials[2].state == TrialState.FAIL


def test_study_killed_between_last_value_and_mean_keeps_the_mean(tmp_path: Path) -> None:
    config = sweep(tmp_path)
    tune = Tune(config, quality)
    tune.ask()
    study = open_study(config)
    study.set_user_attr("0", [0.25])
    study.set_user_attr("1", [0.75])
    OptunaSettings(config)
    assert open_study(config).trials[0].value == 0.5


def test_search_with_two_objectives_has_a_front(tmp_path: Path) -> None:
    config = sweep(tmp_path, search={"objectives": PAIR, "num_settings": 4})
    points = [(0.2, 0.1), (0.8, 0.6), (0.5, 0.7), (0.4, 0.3)]
    assert reported_metrics(config) == ("pass_at_8", "pass_at_1", "diversity")

    def value(entry: dict[str, Any]) -> dict[str, float]:
        setting, seed = divmod(entry["trial"], 2)
        first, second = points[setting]
        return {"pass_at_1": first + 0.05 * seed, "diversity": second + 0.05 * seed}

    tune = Tune(config, value)
    tune.run()
    study = open_study(config)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert np.allclose([trial.values for trial in study.trials], np.array(points) + 0.025)
    ended = [
        Trial(plan.trial_id, plan.parameters, plan.seed, "done", None, 5, 0.0, 1.0, 0.0, 0.0, 1)
        for plan in tune.searcher.plans()
    ]
    note = search_note(config, ended)
    ids = [trial.trial_id for trial in ended]
    assert list(note.on_front) == [*ids[0:4], *ids[6:8]], "setting 2 is worse than setting 1 in both"
    assert "for 4 of 4 settings: pass_at_1 (max), diversity (min)" in note.words
    assert "sampler tpe, the first 2 at random, seed 0" in note.words


def test_searcher_tries_listed_values_of_any_type_once_each(tmp_path: Path) -> None:
    modules = [["q_proj", "v_proj"], ["o_proj"]]
    parameters = {"model.lora.target_modules": {"choice": modules}, WEIGHT: {"grid": [0, 0.5, 1.0]}}
    config = sweep(tmp_path, parameters=parameters, seeds=[0])
    asked = [entry["parameters"] for entry in Tune(config, lambda entry: {"pass_at_8": 0.0}).run()]
    assert sorted(map(str, asked)) == sorted(
        str({"model.lora.target_modules": m, WEIGHT: w}) for m in modules for w in (0, 0.5, 1.0)
    )
    repeated = [trial for trial in open_study(config).trials if SETTING not in trial.user_attrs]
    assert repeated and {trial.state for trial in repeated} == {TrialState.FAIL}


def test_searcher_replaces_values_that_do_not_go_together(tmp_path: Path) -> None:
    parameters = {"rollout.group_size": {"choice": [4, 16]}, SIZE: {"choice": [2, 8]}, WEIGHT: SPACE[WEIGHT]}
    config = sweep(tmp_path, parameters=parameters, seeds=[0], search={"num_settings": 12})
    asked = [entry["parameters"] for entry in Tune(config, quality).run()]
    assert {(entry["rollout.group_size"], entry[SIZE]) for entry in asked} == {(4, 2), (16, 2), (16, 8)}
    with pytest.raises(ConfigError, match=r"set_size"):
        plan_trials(config)
    listed = parameters | {WEIGHT: {"choice": [1.0]}}
    few = sweep(tmp_path / "few", parameters=listed, seeds=[0], search={"num_settings": 4})
    tune = Tune(few, lambda entry: {"pass_at_8": 0.0})
    assert len(tune.run()) == 3, "three combinations fit together"
    tune.restart()
    assert tune.searcher.num_left == 0 and tune.ask() == "FINISHED"
    never = sweep(tmp_path / "never", parameters={SIZE: {"choice": [100]}}, search={"num_settings": 1})
    with pytest.raises(ConfigError, match=r"100 suggestions; .*set_size"):
        open_settings(never)


def test_searcher_without_optuna_follows_the_plan(tmp_path: Path) -> None:
    parameters = {WEIGHT: {"grid": [0.0, 0.5]}, RATE: {"uniform": [1e-4, 2e-4]}}
    config = sweep(tmp_path, parameters=parameters, num_samples=2, max_concurrent_trials=2, search=None)
    plans = plan_trials(config)
    tune = Tune(config, lambda entry: None)
    asked = [tune.ask(), tune.ask()]
    assert tune.ask() is None
    tune.end(0)
    tune.restart()
    asked.append(tune.ask())
    assert tune.ask() is None and tune.searcher.num_left == 7
    assert asked == [
        {"trial": number, "seed": plan.seed, "parameters": plan.parameters}
        for number, plan in enumerate(plans[:3])
    ]
    tune.end(1)
    tune.end(2)
    assert [entry["trial"] for entry in tune.run()] == list(range(8))
    assert [plan.trial_id for plan in tune.searcher.plans()] == [plan.trial_id for plan in plans]
    note = search_note(config, [])
    assert f"every point of the grids, with 2 draws of {RATE} at each (seed 0)" in note.words
    assert note.on_front == ()


def test_state_of_tune_excludes_the_searcher(tmp_path: Path) -> None:
    config = sweep(tmp_path, max_concurrent_trials=2)
    searcher = TrialSearcher.of_this_process = TrialSearcher(config, open_settings(config))
    assert pickle.loads(pickle.dumps(searcher)) is searcher
    generator = SearchGenerator(ConcurrencyLimiter(searcher, max_concurrent=2))
    generator.save_to_dir(str(tmp_path), "now")
    generator.restore_from_dir(str(tmp_path))
    asked = [generator.searcher.suggest(name) for name in ("a", "b", "c")]
    assert [entry and entry["trial"] for entry in asked] == [0, 1, None]  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_open_settings_refuses_trials_without_their_study(tmp_path: Path) -> None:
    config = sweep(tmp_path)
    settings = OptunaSettings(config)
    (config.run_dir / "trials" / f"t{settings.num_known:03}").mkdir(parents=True)
    (config.run_dir / "study.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"study\.jsonl"):
        open_settings(config)
