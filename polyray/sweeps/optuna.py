"""Settings that Optuna suggests, and the results that it gets back (not a job itself).

The study is study.jsonl in the sweep's directory: Optuna's own journal, one line an operation. A suggestion that
is taken gets its setting's number; one that repeats a setting, or that no run can be built from, is told as failed,
and so is one that a killed process left without a number. The value of every trial is written when it ends, the mean
of a setting is told when its last seed has ended.

A suggestion depends on the sweep's seed, the setting's number and what is known by then, not on the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from polyray.config.sweep import OptunaSearchSpec, ParameterSpec, SweepConfig
from polyray.errors import ConfigError
from polyray.report.sweep.search import SearchNote
from polyray.report.sweep.trials import Trial as SweptTrial
from polyray.runs.jsonl import JsonlWriter
from polyray.sweeps.plan import trial_dir, trial_plan

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

JOURNAL = "study.jsonl"
SETTING = "setting"
EXHAUSTED = "num_settings"
"""Attribute of the study where there are fewer settings than were asked for."""
MAX_ASKS = 100
ASKS_OF_SAMPLER = 10
"""Suggestions asked of the sampler for one setting; later ones are random, or it would repeat its favourite."""


class OptunaSettings:
    """The study of one sweep. Not for two processes at a time: the sweep's directory is locked."""

    def __init__(self, config: SweepConfig) -> None:
        assert isinstance(config.search, OptunaSearchSpec)
        self._config = config
        self._search = config.search
        self._study = open_study(config)
        self._settings: list[dict[str, Any]] = []
        self._refused = ""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.user_attrs.get(SETTING) == len(self._settings):
                self._settings.append(_decoded(config, trial.params))
            elif SETTING not in trial.user_attrs and not trial.state.is_finished():
                self._fail(trial.number)
        self._values: dict[int, list[float] | None] = {
            int(name): values for name, values in self._study.user_attrs.items() if name.isdigit()
        }
        for setting in range(len(self._settings)):
            self._tell_if_complete(setting)
        if self.parameters(0) is None:
            raise ConfigError(f"no run can be built from any of {MAX_ASKS} suggestions; {self._refused}")

    @property
    def num_known(self) -> int:
        """Settings that were suggested."""
        return len(self._settings)

    @property
    def num_in_all(self) -> int:
        """Settings that are to be tried; fewer than were asked for where Optuna finds no new one."""
        return self._study.user_attrs.get(EXHAUSTED, self._search.num_settings)

    def parameters(self, setting: int) -> dict[str, Any] | None:
        """Parameters of this setting, suggested now if it is the next one."""
        if setting == len(self._settings) and setting < self.num_in_all and not self._ask():
            self._study.set_user_attr(EXHAUSTED, setting)
        return self._settings[setting] if setting < len(self._settings) else None

    def has_value(self, number: int) -> bool:
        """Whether this trial came to a value."""
        return self._values.get(number) is not None

    def tell(self, number: int, result: Mapping[str, Any] | None) -> None:
        """The last validation of a trial; a trial that has a value keeps it."""
        if not self.has_value(number):
            names = [objective.metric for objective in self._config.objectives]
            self._values[number] = _numbers(result or {}, names)
            self._study.set_user_attr(str(number), self._values[number])
        self._tell_if_complete(number // len(self._config.seeds))

    def _ask(self) -> bool:
        """Appends one setting that was not there before and that a run can be built from; False: none was found."""
        setting = len(self._settings)
        for attempt in range(MAX_ASKS):
            self._study.sampler = _sampler(self._config, setting, attempt)
            trial = self._study.ask()
            parameters = {
                path: _suggested(trial, path, spec) for path, spec in self._config.parameters.items()
            }
            if parameters not in self._settings and self._can_run(setting, parameters):
                trial.set_user_attr(SETTING, setting)
                self._settings.append(parameters)
                return True
            self._fail(trial.number)
        return False

    def _can_run(self, setting: int, parameters: dict[str, Any]) -> bool:
        """The ends of every parameter were checked; values that do not go together are found here."""
        number, seed = setting * len(self._config.seeds), self._config.seeds[0]
        try:
            trial_plan(self._config, number, parameters, seed)
        except ConfigError as error:
            self._refused = str(error)
            return False
        return True

    def _tell_if_complete(self, setting: int) -> None:
        """Report a setting to Optuna once every seed has ended.

        A setting that failed and has a value after a restart is reported once more.
        """
        from optuna.trial import TrialState, create_trial

        num_seeds = len(self._config.seeds)
        numbers = range(setting * num_seeds, (setting + 1) * num_seeds)
        if not all(number in self._values for number in numbers):
            return
        told = _of_setting(self._study, setting)
        values = [found for number in numbers if (found := self._values[number]) is not None]
        means = np.mean(values, axis=0).tolist() if values else None
        if told.state == TrialState.RUNNING:
            if means:
                self._study.tell(told.number, means)
            else:
                self._fail(told.number)
        elif told.state == TrialState.FAIL and means:
            again = create_trial(
                values=means,
                params=told.params,
                distributions=told.distributions,
                user_attrs={SETTING: setting},
            )
            self._study.add_trial(again)

    def _fail(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)


def open_study(config: SweepConfig) -> Study:
    """The sweep's study, made if it is not there; a line that a killed process left torn is cut off.

    Raises ConfigError where the sweep has trials, but no study any more.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = config.run_dir / JOURNAL
    if not path.exists() and any(trial_dir(config, "").glob("*")):
        raise ConfigError(
            f"{config.run_dir} has trials, but {JOURNAL}, which says what they tried, is gone; put it back, or "
            "choose another name"
        )
    JsonlWriter(path).close()
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=config.name,
        directions=["maximize" if objective.mode == "max" else "minimize" for objective in config.objectives],
        load_if_exists=True,
    )


def optuna_note(config: SweepConfig, trials: Sequence[SweptTrial]) -> SearchNote:
    """Description of the search, and, with several objectives, Optuna's front.

    `trials` are all of them in order of their numbers.
    """
    from optuna.trial import TrialState

    search = config.search
    assert isinstance(search, OptunaSearchSpec)
    study = open_study(config)
    settings = len(trials) // len(config.seeds)
    told = sum(_of_setting(study, setting).state == TrialState.COMPLETE for setting in range(settings))
    at_random = search.num_random if search.sampler == "tpe" else search.num_settings
    sought = ", ".join(f"{objective.metric} ({objective.mode})" for objective in config.objectives)
    best = {trial.user_attrs[SETTING] for trial in study.best_trials} if len(config.objectives) > 1 else set()
    return SearchNote(
        words=f"Optuna suggested the settings (sampler {search.sampler}, the first {at_random} at random, seed "
        f"{config.seed}). It was told the mean over seeds of the last validation, for {told} of {settings} settings: "
        f"{sought}.",
        on_front=tuple(
            trial.trial_id for number, trial in enumerate(trials) if number // len(config.seeds) in best
        ),
    )


def _of_setting(study: Study, setting: int) -> FrozenTrial:
    """The study's trial of a setting."""
    return [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(SETTING) == setting][-1]


def _numbers(result: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    """One per name; None where any is missing or not finite."""
    values = [float(result[name]) for name in names if result.get(name) is not None]
    return values if len(values) == len(names) and all(map(math.isfinite, values)) else None


def _sampler(config: SweepConfig, setting: int, attempt: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    assert isinstance(config.search, OptunaSearchSpec)
    seed = int(np.random.SeedSequence((config.seed, setting, attempt)).generate_state(1)[0])
    if config.search.sampler == "random" or attempt >= ASKS_OF_SAMPLER:
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=config.search.num_random, constant_liar=True)


def _suggested(trial: Trial, path: str, spec: ParameterSpec) -> Any:
    if spec.listed is not None:
        texts = list(dict.fromkeys(json.dumps(value, sort_keys=True) for value in spec.listed))
        return json.loads(trial.suggest_categorical(path, texts))
    if spec.uniform is not None:
        return trial.suggest_float(path, *spec.uniform)
    assert spec.loguniform is not None
    return trial.suggest_float(path, *spec.loguniform, log=True)


def _decoded(config: SweepConfig, suggested: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of what `_suggested` gives to Optuna, which knows listed values by their JSON."""
    return {
        path: suggested[path] if spec.listed is None else json.loads(suggested[path])
        for path, spec in config.parameters.items()
    }
