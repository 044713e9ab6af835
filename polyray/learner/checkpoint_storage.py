"""Checkpoints in a storage behind a URL, so that a run can resume after its disk is lost.

    URL/RUN/config.json, metrics.jsonl, ...            files from which a run directory is rebuilt
    URL/RUN/checkpoints/step-000020/manifest.json      uploaded last: without it a checkpoint does not count

pyarrow reaches the storages that it knows (file, s3, gs, hdfs, abfs), fsspec all others. A downloaded checkpoint
is used only after its hashes have been checked, like any checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from polyray.config.base import as_json
from polyray.config.run import TrainConfig
from polyray.errors import CheckpointError, ConfigError, boundary
from polyray.learner.state import MANIFEST, is_valid
from polyray.runs.atomic import atomic_directory, atomic_write_bytes
from polyray.runs.data_record import put_before
from polyray.runs.run_directory import refused_differences

logger = logging.getLogger(__name__)

DATA = "data.json"
LOGS = ("metrics.jsonl", "ledger.jsonl", "dynamics.jsonl", "rollouts.jsonl")


class CheckpointStorage:
    """One run's place in the storage. Errors of the storage's client become CheckpointError."""

    def __init__(self, url: str, config: TrainConfig) -> None:
        self._url = f"{url.rstrip('/')}/{config.name}"
        self._config = config
        with boundary(CheckpointError, f"checkpoint storage {self._url}"):
            self._files, self._root = open_storage(self._url)

    def upload(self, checkpoint: Path, keep: Callable[[Collection[str]], Collection[str]]) -> None:
        """Copies a checkpoint and the run's logs, then removes checkpoints: of the stored names, all but those that
        `keep` returns."""
        with boundary(CheckpointError, f"checkpoint storage {self._url}"):
            target = f"{self._root}/checkpoints/{checkpoint.name}"
            self._remove(target)
            files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: path == checkpoint / MANIFEST):
                self._put(f"{target}/{path.relative_to(checkpoint).as_posix()}", path.read_bytes())
            run_dir = checkpoint.parent.parent
            for name in (*LOGS, DATA):
                if (run_dir / name).is_file():
                    self._put(f"{self._root}/{name}", (run_dir / name).read_bytes())
            self._put(f"{self._root}/config.json", json.dumps(as_json(self._config), indent=2).encode())
            stored = self._names()
            for name in set(stored) - set(keep(stored)):
                self._remove(f"{self._root}/checkpoints/{name}")

    def fetch_newer(self, directory: Path) -> None:
        """Downloads the newest valid checkpoint that is newer than every valid one here; several ranks may ask.

        Raises ConfigError where the storage's run has another configuration.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".fetch.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            here = max((path.name for path in directory.glob("step-*") if is_valid(path)), default="")
            with boundary(CheckpointError, f"checkpoint storage {self._url}"):
                newer = sorted((name for name in self._names() if name > here), reverse=True)
                if newer:
                    self._check_config()
                for name in newer:
                    if self._download(name, directory):
                        self._fetch_logs(directory.parent)
                        return

    def _download(self, name: str, directory: Path) -> bool:
        """False, and nothing here, for one that is damaged or incomplete."""
        try:
            with atomic_directory(directory / name) as target:
                self._copy(f"{self._root}/checkpoints/{name}", target)
                if not is_valid(target):
                    raise _Damaged
        except _Damaged:
            logger.warning(
                "%s/checkpoints/%s is incomplete or damaged; an older one is used", self._url, name
            )
            return False
        return True

    def _fetch_logs(self, run_dir: Path) -> None:
        """The logs of the downloaded checkpoint: those here end before it, or tell of other steps. And what the data
        files held at the starts that it comes from."""
        for name in LOGS:
            path = f"{self._root}/{name}"
            if self._exists(path):
                atomic_write_bytes(run_dir / name, self._get(path))
        if self._exists(f"{self._root}/{DATA}"):
            put_before(run_dir / DATA, json.loads(self._get(f"{self._root}/{DATA}")))

    def _check_config(self) -> None:
        path = f"{self._root}/config.json"
        if not self._exists(path):
            return
        refused = refused_differences(json.loads(self._get(path)), as_json(self._config))
        if refused:
            key, (old, new) = next(iter(refused.items()))
            raise ConfigError(
                f"{self._url} holds checkpoints of a run with another configuration ({key}: {old} -> {new}); "
                "give this run another name, or remove them"
            )

    def _names(self) -> list[str]:
        from pyarrow.fs import FileSelector

        entries = self._files.get_file_info(FileSelector(f"{self._root}/checkpoints", allow_not_found=True))
        return [entry.base_name for entry in entries if entry.base_name.startswith("step-")]

    def _copy(self, source: str, target: Path) -> None:
        from pyarrow.fs import FileSelector, FileType

        for entry in self._files.get_file_info(FileSelector(source, recursive=True)):
            if entry.type == FileType.File:
                path = target / Path(entry.path).relative_to(Path(source))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._get(entry.path))

    def _remove(self, path: str) -> None:
        from pyarrow.fs import FileType

        if self._files.get_file_info(path).type == FileType.NotFound:
            return
        if self._exists(f"{path}/{MANIFEST}"):
            self._files.delete_file(f"{path}/{MANIFEST}")  # from now on it does not count
        self._files.delete_dir(path)

    def _exists(self, path: str) -> bool:
        from pyarrow.fs import FileType

        return self._files.get_file_info(path).type == FileType.File

    def _get(self, path: str) -> bytes:
        with self._files.open_input_stream(path) as stream:
            return stream.read()

    def _put(self, path: str, content: bytes) -> None:
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        with self._files.open_output_stream(path) as stream:
            stream.write(content)


class _Damaged(Exception):
    """A downloaded checkpoint is not valid."""


def open_storage(url: str) -> tuple[Any, str]:
    """(pyarrow file system, path in it) of a URL; ConfigError for a scheme without an installed client."""
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
    from pyarrow.lib import ArrowException

    try:
        files, path = FileSystem.from_uri(url)
    except (ArrowException, ValueError):
        import fsspec

        try:
            inner, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"learner.checkpoint_storage={url}: {error}; install the storage's fsspec client"
            ) from None
        files = PyFileSystem(FSSpecHandler(inner))
    return files, str(path).rstrip("/")
