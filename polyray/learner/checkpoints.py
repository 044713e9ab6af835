"""Writing of checkpoints: which ones a run keeps, where, and how a failed write is handled.

A checkpoint is written on this machine, atomically (state.py), then copied to `learner.checkpoint_storage` in the
background (checkpoint_storage.py). A full disk costs a checkpoint, not the run. The run ends when too many writes
in a row have failed, or when the last checkpoint of the run fails.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from polyray.config.run import TrainConfig
from polyray.errors import CheckpointError
from polyray.learner.checkpoint_storage import CheckpointStorage
from polyray.learner.state import Checkpoint, checkpoint_dir, newest_checkpoint

logger = logging.getLogger(__name__)

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

COPY_TIMEOUT_S = 600.0
"""A copy that takes longer has failed, as far as the run is concerned."""

Write = Callable[[Collection[int]], Path]
"""(steps of the checkpoints to keep besides the newest) -> the directory written."""


class CheckpointStore:
    """A run's checkpoints, on this machine and in its storage."""

    def __init__(self, config: TrainConfig, directory: Path) -> None:
        self._config = config
        self.directory = directory
        url = config.learner.checkpoint_storage
        self._storage = None if url is None else CheckpointStorage(url, config)
        self._failures = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-storage")
        self._copying: Future[None] | None = None

    def newest(self) -> Checkpoint | None:
        """The newest valid one, here or in the storage; see `newest_checkpoint`."""
        if self._storage is not None:
            self._storage.fetch_newer(self.directory)
        return newest_checkpoint(self.directory)

    def save(
        self,
        step: int,
        write: Write,
        scores: Mapping[int, float],
        *,
        needed: Callable[[], int],
        last: bool,
    ) -> None:
        """Writes a checkpoint with `write` and has it copied.

        `scores` are the values of the metric that `learner.keep_best` goes by; `needed` estimates a checkpoint's
        size in bytes, for the message. Raises CheckpointError after too many failures in a row, and where the last
        one cannot be kept.
        """
        self._settle(last=False)  # a running copy reads files that pruning might remove
        kept = self._best(scores, self._here())
        try:
            target = write(kept)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._failed(self._disk_full(step, error, needed()), last)
            return
        if self._storage is None:
            self._failures = 0
            return
        here = self._here()

        def keep(stored: Collection[str]) -> set[str]:  # the storage may have what this machine has lost
            return here | {_name(best) for best in self._best(scores, here | set(stored))}

        self._copying = self._thread.submit(self._storage.upload, target, keep)
        if last:
            self._settle(last=True)

    def finish(self) -> None:
        """Waits for the copy under way; raises CheckpointError where it fails."""
        self._settle(last=True)

    def _here(self) -> set[str]:
        return {path.name for path in self.directory.glob("step-*") if path.is_dir()}

    def _best(self, scores: Mapping[int, float], present: Collection[str]) -> list[int]:
        learner = self._config.learner
        own = learner.best_metric is not None
        mode = learner.best_mode if own or not self._config.evaluation else self._config.evaluation.best_mode
        kept = {step: score for step, score in scores.items() if _name(step) in present}
        return best_steps(kept, learner.keep_best, mode)

    def _settle(self, last: bool) -> None:
        """Waits for the copy under way and counts it."""
        if self._copying is None:
            return
        copying, self._copying = self._copying, None
        try:
            error = copying.exception(COPY_TIMEOUT_S)
        except TimeoutError as late:
            error = late
        if error is None:
            self._failures = 0
        else:
            url = self._config.learner.checkpoint_storage
            reason = str(error) or f"not done after {COPY_TIMEOUT_S:g} s"
            self._failed(f"a checkpoint could not be copied to {url}: {type(error).__name__}: {reason}", last)

    def _disk_full(self, step: int, error: OSError, needed: int) -> str:
        target = checkpoint_dir(self.directory, step)
        free = shutil.disk_usage(self.directory).free
        return (
            f"checkpoint {target} could not be written: {error.strerror} (about {needed / 2**20:.1f} MiB needed, "
            f"{free / 2**20:.1f} MiB free); free space there, or lower learner.keep_checkpoints"
        )

    def _failed(self, message: str, last: bool) -> None:
        self._failures += 1
        limit = self._config.learner.max_checkpoint_failures
        if last:
            raise CheckpointError(f"the run's last checkpoint must be kept: {message}")
        if self._failures >= limit:
            raise CheckpointError(
                f"{self._failures} checkpoints in a row failed (learner.max_checkpoint_failures={limit}): {message}"
            )
        logger.error("%s; the run continues (%d of at most %d in a row)", message, self._failures, limit - 1)


def _name(step: int) -> str:
    return checkpoint_dir(Path(), step).name


def best_steps(scores: Mapping[int, float], num: int, mode: str) -> list[int]:
    """The steps of the `num` best values, of equal ones the earlier."""
    sign = -1 if mode == "max" else 1
    return sorted(scores, key=lambda step: (sign * scores[step], step))[:num]
