"""runs/<name>/: its layout, its lock, and whether a run may be resumed.

`RunPaths` has the paths; it pickles and may go to any process. `RunDirectory` belongs to the process
that drives the run: it writes config.json and holds the lock, which the kernel releases however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from polyray.config.base import as_json
from polyray.config.run import RunBase
from polyray.errors import ConfigError, PolyrayError, Stopped
from polyray.runs.atomic import atomic_write_json
from polyray.runs.data_record import record_data
from polyray.runs.error_log import log_error

LENGTH_KEYS: tuple[str, ...] = ("learner.steps", "epochs", "evaluation.patience")
"""Keys of a run's length: a finished run continues when one of them changes."""

RESUMABLE_KEYS: tuple[str, ...] = (
    *LENGTH_KEYS,
    "runs_dir",
    "ray.*",
    "cache_dir",
    "model.cache_dir",
    "rollouts_logged_per_step",
    "tracking",
    "learner.checkpoint_every",
    "learner.keep_checkpoints",
    "learner.keep_best",
    "learner.best_metric",
    "learner.best_mode",
    "learner.checkpoint_storage",
    "learner.max_checkpoint_failures",
    "learner.max_failures",
    "learner.cpus_per_worker",
    "learner.gpus_per_worker",
    "learner.num_threads",
    "learner.micro_batch_rows",
    "learner.micro_batch_tokens",
    "learner.gradient_checkpointing",
    "learner.gradient_parts_every",
    "learner.node_labels",
    "learner.node_labels.*",
    "delivery.keep_versions",
    "delivery.timeout_s",
    "delivery.num_probes",
    "rollout.num_workers",
    "rollout.max_workers",
    "rollout.cpus_per_worker",
    "rollout.gpus_per_worker",
    "rollout.node_labels",
    "rollout.node_labels.*",
    "rollout.sleep_between_steps",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_mib",
    "rollout.max_sequences",
    "rollout.max_batched_tokens",
    "rollout.max_prompt_tokens",
    "rollout.threads_per_worker",
    "rollout.dispatch",
    "rollout.share",
    "rollout.start_timeout_s",
    "rollout.group_timeout_s",
    "rollout.max_worker_replacements",
    "reward.service.*",
    "reward.client.*",
    "monitors",
    "max_concurrent_trials",
    "max_failures",
)
"""Dotted keys that may differ on a resume: length, logs, limits and resources of the run.

None of them changes what a step computes, but for the last bits of floating-point sums (micro batches, threads,
engine batches). `rollout.max_prompt_tokens` chooses no prompts: a longer one is refused before the run starts.
`a.*` means everything below `a`.
"""


BASE_DIR = "base_dir"
JOB_COPY = "working_dir_files"
"""Directory in which Ray unpacks the working directory of a submitted job."""
FREE_KEYS = ("prices", "prices.*", "logging", BASE_DIR)
"""Keys that may differ when a run resumes: cost, logging and the directory of the command change no result."""


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths of a run's files; no access creates them.

    Example:
        RunPaths(Path("runs/quick")).metrics == Path("runs/quick/metrics.jsonl")
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.json"

    @property
    def data(self) -> Path:
        """Hashes of the data files at the start of the run; absent if it trains on no file."""
        return self.root / "data.json"

    @property
    def metrics(self) -> Path:
        """One line per step."""
        return self.root / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        """Groups that each step consumed, and groups dropped before it."""
        return self.root / "ledger.jsonl"

    @property
    def incidents(self) -> Path:
        """Faults in words, survived or not."""
        return self.root / "incidents.jsonl"

    @property
    def rollouts(self) -> Path:
        """A few groups per step in full."""
        return self.root / "rollouts.jsonl"

    @property
    def dynamics(self) -> Path:
        """Quality and diversity over time: one line per version (SFT: step) that answered the fixed prompts."""
        return self.root / "dynamics.jsonl"

    @property
    def cost(self) -> Path:
        """Time, cores, GPUs, tokens and money; updated during the run."""
        return self.root / "cost.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints from which a run resumes."""
        return self.root / "checkpoints"

    @property
    def versions(self) -> Path:
        """Published adapters, one directory each."""
        return self.root / "versions"

    @property
    def adapter(self) -> Path:
        """The final adapter, PEFT format."""
        return self.root / "adapter"

    @property
    def best(self) -> Path:
        """The adapter of the best validated version, PEFT format."""
        return self.root / "best"

    @property
    def tracking(self) -> Path:
        """Files of trackers, and their run ids."""
        return self.root / "tracking"

    @property
    def evaluation(self) -> Path:
        """samples.jsonl, results.jsonl, metrics.json."""
        return self.root / "evaluation"

    @property
    def judge(self) -> Path:
        """judgements.jsonl, summary.json and the judge's answers."""
        return self.root / "judge"

    @property
    def tune(self) -> Path:
        """Ray Tune's state of a sweep; exists once its trials begin."""
        return self.root / "tune"

    @property
    def figures(self) -> Path:
        """Drawings, as files."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        """The report, one self-contained page."""
        return self.root / "report.html"

    @property
    def train_storage(self) -> Path:
        """Ray Train's own storage; nothing of ours is read from it."""
        return self.root / ".train"

    @property
    def done(self) -> Path:
        """Exists once the run is complete; holds its summary."""
        return self.root / "DONE"

    @property
    def lock(self) -> Path:
        """Locked while the run's driver lives; holds its process id."""
        return self.root / ".lock"


class RunDirectory:
    """A run's directory, held under its lock; `open` it, and close it or let the process end."""

    def __init__(self, paths: RunPaths, lock_descriptor: int) -> None:
        self.paths = paths
        self._lock_descriptor = lock_descriptor

    @classmethod
    def open(cls, config: RunBase, resumable_keys: Iterable[str] = RESUMABLE_KEYS) -> RunDirectory:
        """Creates the directory, or takes up the one that is there.

        Raises ConfigError where it cannot be written to, where Ray would remove it, where the run is already being
        driven, or where it was started with a configuration that differs in more than `resumable_keys`; it is then
        left as it was.
        """
        paths, values = RunPaths(config.run_dir), as_json(config)
        if JOB_COPY in paths.root.absolute().parts:
            raise ConfigError(
                f"runs_dir={config.runs_dir} is in Ray's copy of the working directory, which Ray removes after the "
                "job; give a directory that all machines see, e.g. runs_dir=/mnt/shared/runs"
            )
        try:
            descriptor = _enter(paths)
        except OSError as error:
            raise ConfigError(
                f"runs_dir={config.runs_dir}: {paths.root} cannot be written to ({error.strerror or error}); give a "
                "directory that you may write to (runs_dir=...), or have this one made yours"
            ) from None
        try:
            _settle_config(paths, values, tuple(resumable_keys))
            _settle_data(paths, values)
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return cls(paths, descriptor)

    @property
    def finished(self) -> bool:
        """True once `mark_done` was called for a run of this length."""
        return self.paths.done.is_file()

    def mark_done(self, summary: Mapping[str, Any]) -> None:
        """Writes DONE, the last file of a run."""
        atomic_write_json(self.paths.done, dict(summary))

    def summary(self) -> dict[str, Any]:
        """Summary given to `mark_done`. Raises FileNotFoundError for an unfinished run."""
        return json.loads(self.paths.done.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Releases the lock; a second call does nothing."""
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PolyrayError) and error.log is None and not isinstance(error, Stopped):
            written = log_error(self.paths.root, "driver", error)
            error.log = None if written is None else str(written)
        self.close()


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) for every leaf that differs; a key that one side lacks is '(absent)' there."""
    flat_old, flat_new = flat_values(old), flat_values(new)
    pairs = {
        key: (flat_old.get(key, "(absent)"), flat_new.get(key, "(absent)")) for key in flat_old | flat_new
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def refused_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], resumable_keys: Iterable[str] = RESUMABLE_KEYS
) -> dict[str, tuple[Any, Any]]:
    """The part of `config_difference` that prevents a resume.

    Two paths are the same if they are equal, or equal below the `base_dir` of their configurations: a run may resume
    in another directory. A submitted job does, because its copy of the repository has a new place each time.
    """
    allowed = (*resumable_keys, *FREE_KEYS)
    below_base = config_difference(_below_base(old, new), _below_base(new, new))
    return {
        key: pair
        for key, pair in config_difference(old, new).items()
        if key in below_base and not _is_resumable(key, allowed)
    }


def _below_base(values: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every path below `base_dir` relative to it.

    A configuration without `base_dir` was written in the directory of `new`.
    """
    base = str(values.get(BASE_DIR) or new.get(BASE_DIR) or os.getcwd())

    def relative(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: relative(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [relative(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if value.startswith(("~/", "./", "../")):  # of a version that kept paths as they were written
            value = os.path.normpath(os.path.join(base, os.path.expanduser(value)))
        return value.removeprefix(f"{base.rstrip('/')}/")

    return {key: relative(value) for key, value in values.items() if key != BASE_DIR}


def _settle_config(paths: RunPaths, new: dict[str, Any], resumable_keys: tuple[str, ...]) -> None:
    if not paths.config.is_file() or not _has_begun(paths):
        atomic_write_json(paths.config, new)
        return
    old = json.loads(paths.config.read_text(encoding="utf-8"))
    difference = config_difference(old, new)
    refused = refused_differences(old, new, resumable_keys)
    if refused:
        lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in refused.items())
        raise ConfigError(
            f"{paths.root} was started with another configuration:{lines}\n"
            f"give this run another name (name=...), or delete {paths.root}"
        )
    if any(key in LENGTH_KEYS for key in difference):
        paths.done.unlink(missing_ok=True)
    if difference:
        atomic_write_json(paths.config, new)


def _settle_data(paths: RunPaths, values: Mapping[str, Any]) -> None:
    """Record the data files of a training run; one that began without a record gets none.

    Such a run may have begun on other files.
    """
    if "learner" not in values or paths.done.is_file():
        return
    begun = _has_begun(paths)
    if not begun:  # no step was trained on the data of an earlier start
        paths.data.unlink(missing_ok=True)
    if not begun or paths.data.is_file():
        record_data(paths.data, values)


def _has_begun(paths: RunPaths) -> bool:
    """False where an earlier start failed before its first step: there is nothing to contradict yet."""
    logged = paths.metrics.is_file() and paths.metrics.stat().st_size > 0
    written = logged or paths.done.is_file() or paths.evaluation.is_dir() or paths.judge.is_dir()
    return written or paths.tune.is_dir() or any(paths.checkpoints.glob("*"))


def _is_resumable(key: str, resumable_keys: tuple[str, ...]) -> bool:
    return any(
        key.startswith(allowed[:-1]) if allowed.endswith(".*") else key == allowed
        for allowed in resumable_keys
    )


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys: {"learner": {"steps": 3}} -> {"learner.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_values(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _enter(paths: RunPaths) -> int:
    """The lock of the directory, which is made if it is not there. Raises OSError where that cannot be."""
    if paths.root.is_dir() and not paths.config.is_file() and any(_visible(paths.root)):
        raise ConfigError(f"{paths.root} exists but holds no config.json; choose another name or delete it")
    paths.root.mkdir(parents=True, exist_ok=True)
    return _acquire(paths)


def _acquire(paths: RunPaths) -> int:
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"{paths.root} is in use by process {holder}; wait until it ends, stop it, or choose another name"
        ) from None
    return descriptor


def _visible(directory: Path) -> Iterable[Path]:
    return (path for path in directory.iterdir() if not path.name.startswith("."))
