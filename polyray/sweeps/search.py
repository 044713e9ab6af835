"""Hand a sweep's trials to Ray Tune one by one, for any choice of settings (not a job itself).

    Settings (planned, or Optuna's: sweep_optuna.py) --parameters--> TrialSearcher --trial, seed, parameters--> Tune
                                     ^------------- value of every seed ------------------' when a trial ends

Trials are numbered setting by setting, each with every seed. After a restart the searcher looks at the trials that
Tune still knows and hands out the others; it keeps nothing in Tune's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ray.tune.search import Searcher

from polyray.config.sweep import SweepConfig
from polyray.report.sweep.search import SearchNote
from polyray.report.sweep.trials import Trial
from polyray.sweeps.plan import TrialPlan, at_once, settings, trial_plan
from polyray.sweeps.trial import TRIAL, as_tune_config


class Settings(Protocol):
    """Source of parameters."""

    @property
    def num_known(self) -> int:
        """Settings with parameters so far."""
        ...

    @property
    def num_in_all(self) -> int:
        """Settings that there will be, as far as it is known."""
        ...

    def parameters(self, setting: int) -> dict[str, Any] | None:
        """Parameters of this setting, chosen now if necessary; None: there are no more. Asked for in order."""
        ...

    def has_value(self, number: int) -> bool:
        """Whether this trial came to a value that is kept."""
        ...

    def tell(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial ended: with its last report, or None where it failed."""
        ...


class PlannedSettings:
    """Chosen before the first trial starts; what trials come to changes nothing."""

    def __init__(self, config: SweepConfig) -> None:
        self._settings = list(settings(config))

    @property
    def num_known(self) -> int:
        """All of them."""
        return len(self._settings)

    @property
    def num_in_all(self) -> int:
        """All of them."""
        return len(self._settings)

    def parameters(self, setting: int) -> dict[str, Any] | None:
        """Parameters of this setting."""
        return self._settings[setting] if setting < len(self._settings) else None

    def has_value(self, number: int) -> bool:
        """Tune keeps which trials ended."""
        return False

    def tell(self, number: int, result: Mapping[str, Any] | None) -> None:
        """No effect: nothing to learn."""


def open_settings(config: SweepConfig) -> Settings:
    """Settings of the configured search; resumes the state of an earlier process."""
    if config.search.type == "optuna":
        from polyray.sweeps.optuna import OptunaSettings

        return OptunaSettings(config)
    return PlannedSettings(config)


def search_note(config: SweepConfig, trials: Sequence[Trial]) -> SearchNote:
    """Description of the search for the page; `trials` are all of them in order of their numbers."""
    if config.search.type == "optuna":
        from polyray.sweeps.optuna import optuna_note

        return optuna_note(config, trials)
    drawn = [path for path, spec in config.parameters.items() if not spec.is_grid]
    words = "Settings were planned before the first trial started: every point of the grids"
    if drawn:
        words += f", with {config.num_samples} draws of {', '.join(drawn)} at each (seed {config.seed})"
    return SearchNote(words=f"{words}.")


class TrialSearcher(Searcher):
    """Every setting with every seed, no more at once than the sweep allows.

    Tune stores its searcher beside the state of the trials; read back, it is the one of the process that reads.
    """

    of_this_process: ClassVar[TrialSearcher]

    def __init__(self, config: SweepConfig, chosen: Settings) -> None:
        super().__init__()
        self._config = config
        self._settings = chosen
        self._plans: dict[int, TrialPlan] = {}
        self._handed: set[int] = set()
        self._next = 0
        self._live: dict[str, int] = {}
        """Tune's id -> number."""
        self._adopted = False

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (TrialSearcher, "of_this_process")

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Tune's parameters of the next trial; None: not now; FINISHED: all have ended."""
        if len(self._live) >= at_once(self._config):
            return None
        plan = self._next_plan()
        if plan is None:
            return None if self._live else self.FINISHED
        self._handed.add(self._next)
        self._live[trial_id] = self._next
        return as_tune_config(self._next, plan)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note a trial that ended: at its last step, by the scheduler, or failed for good."""
        number = self._live.pop(trial_id, None)
        if number is not None:
            self._settings.tell(number, None if error else result)

    def adopt(self, trials: Sequence[Any]) -> None:
        """The trials that Tune has from an earlier process; to be called before the first suggestion."""
        if not self._adopted:
            self._adopted = True
            for trial in trials:
                self._handed.add(trial.config[TRIAL])
                if not trial.is_finished():
                    self._live[trial.trial_id] = trial.config[TRIAL]

    def plan(self, number: int) -> TrialPlan:
        """Plan of a trial with known parameters."""
        if number not in self._plans:
            setting, seed = divmod(number, len(self._config.seeds))
            parameters = self._settings.parameters(setting)
            assert parameters is not None, f"trial {number} was not handed out"
            self._plans[number] = trial_plan(self._config, number, parameters, self._config.seeds[seed])
        return self._plans[number]

    def plans(self) -> list[TrialPlan]:
        """Plans of all trials with known parameters, in order."""
        return [self.plan(number) for number in range(self._settings.num_known * len(self._config.seeds))]

    @property
    def num_left(self) -> int:
        """Trials that have not ended: they run, or wait to be handed out."""
        in_all = range(self._settings.num_in_all * len(self._config.seeds))
        return len(self._live) + sum(not self._is_out(number) for number in in_all)

    def _next_plan(self) -> TrialPlan | None:
        while self._is_out(self._next):
            self._next += 1
        if self._settings.parameters(self._next // len(self._config.seeds)) is None:
            return None
        return self.plan(self._next)

    def _is_out(self, number: int) -> bool:
        return number in self._handed or self._settings.has_value(number)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """`suggest` counts itself: Tune's own limiter forgets trials that a restart tries again."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """No effect: Tune keeps the trials, Optuna's journal the values."""

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """No effect: see `adopt`."""
