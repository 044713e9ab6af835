"""The best validated version, and whether patience has run out, from the results alone.

Without torch, so that a reader of a run directory decides as the learner did. validating.py is the learner's
side: it keeps adapters and writes files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from polyray.config.training_evaluation import TrainingEvaluationSpec


@dataclass(frozen=True, slots=True)
class BestVersion:
    """e.g. BestVersion(version=20, value=0.31)."""

    version: int
    value: float


class ValidationRecord:
    """The results in the order in which they came, as (version, value of best_metric).

    A result without a value (nothing was scored) neither improves nor uses up patience.
    """

    def __init__(
        self, spec: TrainingEvaluationSpec, history: Iterable[tuple[int, float | None]] = ()
    ) -> None:
        self._spec = spec
        self.best: BestVersion | None = None
        self.failures = 0
        self._history: list[tuple[int, float | None]] = []
        for version, value in history:
            self.observe(version, value)

    @classmethod
    def from_lines(cls, spec: TrainingEvaluationSpec, lines: Iterable[Mapping[str, Any]]) -> ValidationRecord:
        """From the lines of dynamics.jsonl."""
        return cls(spec, [(line["version"], line.get(spec.best_metric)) for line in lines])

    @property
    def history(self) -> tuple[tuple[int, float | None], ...]:
        """Results from which the record can be rebuilt."""
        return tuple(self._history)

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return self._spec.patience is not None and self.failures >= self._spec.patience

    def observe(self, version: int, value: float | None) -> bool:
        """Takes one more result; True where its version is the best so far by more than min_delta."""
        self._history.append((version, value))
        if value is None:
            return False
        sign = 1 if self._spec.best_mode == "max" else -1
        if self.best is not None and sign * (value - self.best.value) <= self._spec.min_delta:
            self.failures += 1
            return False
        self.best, self.failures = BestVersion(version, value), 0
        return True

    def why_over(self) -> str:
        """Explanation of an early stop, for people."""
        assert self.best is not None
        return (
            f"early stopping: {self.failures} validations in a row without an improvement of "
            f"{self._spec.best_metric} by more than {self._spec.min_delta:g}; the best is {self.best.value:g} at "
            f"version {self.best.version}, its adapter is in best/"
        )
