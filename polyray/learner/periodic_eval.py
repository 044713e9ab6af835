"""Results of the rounds on fixed prompts: rank 0 writes dynamics.jsonl and, with `evaluation`, best/.

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from polyray.config.monitors import OF_ROUNDS, MonitorSpec
from polyray.config.passes import INSTEAD, counts_passes
from polyray.config.run import TrainConfig
from polyray.learner.monitors import Monitors
from polyray.models.adapter import PolicyUpdate
from polyray.models.adapter_files import WEIGHTS_FILE
from polyray.periodic_eval import EarlyStopping
from polyray.runs.jsonl import JsonlWriter, Record, cut_jsonl, read_jsonl

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


class RoundLog:
    """dynamics.jsonl and the monitors that read it; for RL and SFT, rank 0 only."""

    def __init__(self, path: Path, monitors: Sequence[MonitorSpec], keep: Callable[[Record], bool]) -> None:
        """Removes the lines that a resumed run writes again."""
        self._path = path
        cut_jsonl(path, keep)
        self.lines = read_jsonl(path)
        """Lines at the start."""
        self._monitors = Monitors(monitors, self.lines, of_rounds=True)

    def write(self, head: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, float]:
        """Appends a round; returns its values and alarms under their keys in metrics.jsonl."""
        alarms = self._monitors.observe(values)
        with JsonlWriter(self._path) as writer:
            writer.write({**head, **values, **alarms})
        return {**{OF_ROUNDS + name: value for name, value in values.items()}, **alarms}


class EvalResults:
    """Evaluation while training, the learner's side; no effect without rounds in the configuration."""

    def __init__(self, config: TrainConfig, run_dir: Path, write_adapter: WriteAdapter) -> None:
        self._config = config
        self._plan = config.eval_plan
        self._spec = config.evaluation
        self._write_adapter = write_adapter
        self._path = run_dir / "dynamics.jsonl"
        self._best_dir = run_dir / "best"
        self._stopping = EarlyStopping.of(self._spec)
        self._log: RoundLog | None = None
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
        if self._plan is None:
            return
        self._stopping = EarlyStopping.of(self._spec, [] if state is None else state["history"])
        if not writes:
            return
        known = self._known
        self._log = RoundLog(self._path, self._config.monitors, lambda line: line["version"] in known)
        self._best_adapter = files.get(BEST_ADAPTER)
        if self._best_adapter is None:
            shutil.rmtree(self._best_dir, ignore_errors=True)
        elif not self._is_on_disk(self._best_adapter):
            self._write_best(self._best_adapter)

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self._stopping.is_over

    @property
    def _known(self) -> set[int]:
        """Versions with a result."""
        return {version for version, _ in self._stopping.history}

    @property
    def scores(self) -> dict[int, float]:
        """Version -> value of best_metric, as far as there are any."""
        return {version: value for version, value in self._stopping.history if value is not None}

    def published(self, payload: PolicyUpdate) -> None:
        """A version is served from now on; where it is due, its adapter is kept until its result is here."""
        if self._plan is None:
            return
        version = payload.policy.version
        if self._plan.schedule.due(version) and version not in self._known:
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
        return None if self._plan is None else {"history": [list(item) for item in self._stopping.history]}

    def files(self) -> dict[str, bytes]:
        """State for a checkpoint, as files."""
        return {} if self._best_adapter is None else {BEST_ADAPTER: self._best_adapter}

    def _take(self, version: int, metrics: Mapping[str, float]) -> None:
        assert self._log is not None
        adapter = self._outstanding.pop(version)
        line = self._log.write({"phase": "rl", "step": version, "version": version}, metrics)
        self.newest = self._for_next_line = {"validation/version": version, **line}
        value = None if self._spec is None else metrics.get(self._spec.best_metric)
        if not self._stopping.history:
            self._warn_of_no_pass(value)
        if self._stopping.observe(version, value):
            self._best_adapter = adapter
            self._write_best(adapter)
        if self._spec is not None and self._stopping.is_over:
            logger.warning(self._stopping.why_over(self._spec.best_metric))

    def _warn_of_no_pass(self, value: float | None) -> None:
        """A reward function or service may give a reward of 1; the first validation is the first to see one."""
        if self._spec is not None and counts_passes(self._spec.best_metric) and value == 0:
            logger.warning(
                "%s is 0 in the first validation: no completion has a reward of 1. If rewards never reach 1, no "
                "version is better than the first, and patience ends the run; set evaluation.best_metric=%s",
                self._spec.best_metric,
                INSTEAD,
            )

    def _write_best(self, adapter: bytes) -> None:
        assert self._spec is not None and self._stopping.best is not None
        best = self._stopping.best
        manifest = {"version": best.version, "metric": self._spec.best_metric, "value": best.value}
        self._write_adapter(adapter, self._best_dir, manifest)

    def _is_on_disk(self, adapter: bytes) -> bool:
        path = self._best_dir / WEIGHTS_FILE
        return path.is_file() and _sha256(path.read_bytes()) == _sha256(adapter)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
