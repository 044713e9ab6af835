"""Rank 0's side of the rounds on fixed prompts: takes results, writes dynamics.jsonl and, with `evaluation`, best/.

At staleness 0 the loop waits for a version's result right after its delivery, so results are part of what a
repeated run repeats; else they are taken as they come, at the latest before the next checkpoint, and the adapters
of versions without one are kept until then. All of the state goes through checkpoints: the results so far, and the
bytes of the best adapter, because best/ may have gone on to a version that a resumed run has yet to train.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from polyray.config.passes import INSTEAD, counts_passes
from polyray.config.run import TrainConfig
from polyray.learner.monitors import Monitors
from polyray.models.adapter import PolicyUpdate
from polyray.models.adapter_files import WEIGHTS_FILE
from polyray.periodic_eval import ValidationRecord
from polyray.runs.jsonl import JsonlWriter, cut_jsonl, read_jsonl

logger = logging.getLogger(__name__)

BEST_ADAPTER = "best/adapter.safetensors"
"""Name of the best adapter among a checkpoint's extra files."""

WriteAdapter = Callable[[bytes, Path, Mapping[str, Any]], None]
"""(weights, directory, additions to the manifest) -> an adapter directory in PEFT format."""


class Validator(Protocol):
    """The part of the learner's Coordination that is needed here."""

    def validation(self, version: int, wait: bool) -> Mapping[str, float] | None:
        """The metrics of a version. Without `wait` None says: not yet; with it: the run was stopped."""
        ...


class Validating:
    """Validation while training, the learner's side; no effect without rounds in the configuration."""

    def __init__(self, config: TrainConfig, run_dir: Path, write_adapter: WriteAdapter) -> None:
        self._config = config
        self._rounds = config.rounds
        self._spec = config.evaluation
        self._write_adapter = write_adapter
        self._path = run_dir / "dynamics.jsonl"
        self._best_dir = run_dir / "best"
        self._history: list[tuple[int, float | None]] = []
        """(version, value of best_metric) of every result so far."""
        self._record = None if self._spec is None else ValidationRecord(self._spec)
        self._monitors = self._watch([])
        self._best_adapter: bytes | None = None
        self._outstanding: dict[int, bytes] = {}
        self._for_next_line: dict[str, float] = {}
        self.newest: dict[str, float] = {}
        """The last result, as keys of metrics.jsonl; for the display."""

    def restore(self, state: Mapping[str, Any] | None, files: Mapping[str, bytes], writes: bool) -> None:
        """Return to a checkpoint, from its `state` and `files`; None: to the start.

        Only a rank that `writes` restores dynamics.jsonl and best/; the others only need to know whether the run is
        over.
        """
        if self._rounds is None:
            return
        self._history = [] if state is None else [(version, value) for version, value in state["history"]]
        self._record = None if self._spec is None else ValidationRecord(self._spec, self._history)
        if not writes:
            return
        known = {version for version, _ in self._history}
        cut_jsonl(self._path, lambda line: line["version"] in known)
        self._monitors = self._watch(read_jsonl(self._path))
        self._best_adapter = files.get(BEST_ADAPTER)
        if self._best_adapter is None:
            shutil.rmtree(self._best_dir, ignore_errors=True)
        elif not self._is_on_disk(self._best_adapter):
            self._write_best(self._best_adapter)

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self._record is not None and self._record.is_over

    @property
    def scores(self) -> dict[int, float]:
        """Version -> value of best_metric, as far as there are any."""
        return {version: value for version, value in self._history if value is not None}

    def published(self, payload: PolicyUpdate) -> None:
        """A version is served from now on; where it is due, its adapter is kept until its result is here."""
        if self._rounds is None:
            return
        version = payload.policy.version
        known = version in (seen for seen, _ in self._history)
        if self._rounds.due(version) and not known:
            self._outstanding[version] = payload.tensors

    @property
    def outstanding(self) -> list[int]:
        """Versions that are due and have no result yet."""
        return sorted(self._outstanding)

    def collect(self, validator: Validator, last: bool, before: int = 0) -> dict[str, float] | None:
        """Takes what is there; at staleness 0 and at the end all that is outstanding, and else at least that of
        versions `before` this one.

        Returns the seconds it waited as a timing; None where the run was stopped.
        """
        if not self._outstanding:
            return {}
        for_all = last or self._config.rollout.max_staleness == 0
        started = time.perf_counter()
        for version in self.outstanding:
            wait = for_all or version < before
            metrics = validator.validation(version, wait)
            if metrics is not None:
                self._take(version, metrics)
            elif wait:
                return None
        return {"validation_s": time.perf_counter() - started}

    def for_next_line(self) -> dict[str, float]:
        """The newest result that no line of metrics.jsonl has yet, under its keys there; {} if there is none."""
        values, self._for_next_line = self._for_next_line, {}
        return values

    def state(self) -> dict[str, Any] | None:
        """State for a checkpoint, as plain values."""
        return None if self._rounds is None else {"history": [list(item) for item in self._history]}

    def files(self) -> dict[str, bytes]:
        """State for a checkpoint, as files."""
        return {} if self._best_adapter is None else {BEST_ADAPTER: self._best_adapter}

    def _take(self, version: int, metrics: Mapping[str, float]) -> None:
        adapter = self._outstanding.pop(version)
        alarms = self._monitors.observe(metrics)
        with JsonlWriter(self._path) as writer:
            writer.write({"phase": "rl", "step": version, "version": version, **metrics, **alarms})
        line = {f"validation/{name}": value for name, value in metrics.items()}
        self.newest = self._for_next_line = {"validation/version": version, **line, **alarms}
        value = None if self._spec is None else metrics.get(self._spec.best_metric)
        self._history.append((version, value))
        if self._record is None:
            return
        if len(self._history) == 1:
            self._warn_of_no_pass(value)
        if self._record.observe(version, value):
            self._best_adapter = adapter
            self._write_best(adapter)
        if self._record.is_over:
            logger.warning(self._record.why_over())

    def _warn_of_no_pass(self, value: float | None) -> None:
        """A reward function or service may give a reward of 1; the first validation is the first to see one."""
        if self._spec is not None and counts_passes(self._spec.best_metric) and value == 0:
            logger.warning(
                "%s is 0 in the first validation: no completion has a reward of 1. If rewards never reach 1, no "
                "version is better than the first, and patience ends the run; set evaluation.best_metric=%s",
                self._spec.best_metric,
                INSTEAD,
            )

    def _watch(self, lines: Iterable[Mapping[str, Any]]) -> Monitors:
        return Monitors(self._config.monitors, lines, of_rounds=True)

    def _write_best(self, adapter: bytes) -> None:
        assert self._spec is not None and self._record is not None and self._record.best is not None
        best = self._record.best
        manifest = {"version": best.version, "metric": self._spec.best_metric, "value": best.value}
        self._write_adapter(adapter, self._best_dir, manifest)

    def _is_on_disk(self, adapter: bytes) -> bool:
        path = self._best_dir / WEIGHTS_FILE
        return path.is_file() and _sha256(path.read_bytes()) == _sha256(adapter)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
