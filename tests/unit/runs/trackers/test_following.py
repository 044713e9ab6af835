"""A tracker gets each step once from a growing file; its failures stay isolated."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from polyray.config.tracking import MlflowSpec, TensorBoardSpec, WandbSpec
from polyray.errors import ConfigError
from polyray.runs.jsonl import JsonlWriter, cut_jsonl
from polyray.runs.run_directory import RunPaths
from polyray.runs.trackers import running
from polyray.runs.trackers.base import RunIdentity, Status
from polyray.runs.trackers.following import Follower, GrowingFile
from polyray.runs.trackers.running import check_trackers, open_trackers


class Recording:
    """A tracker in memory."""

    def __init__(self, first: int = 0, fails_at: int | None = None, hangs_at: int | None = None) -> None:
        self.first = first
        self.fails_at = fails_at
        self.hangs_at = hangs_at
        self.released = threading.Event()
        self.steps: list[int] = []
        self.values: list[Mapping[str, float]] = []
        self.status: Status | None = None

    def start(self, config: Mapping[str, Any], identity: RunIdentity) -> int:
        return self.first

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("no route\nto the host")
        if step == self.hangs_at:
            self.released.wait(30)
        self.steps.append(step)
        self.values.append(metrics)

    def finish(self, status: Status) -> None:
        self.status = status


def _follow(tracker: Recording, path: Path) -> Follower:
    return Follower("recording", tracker, path, {}, RunIdentity("run", path.parent), poll_s=0.01)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _write(path: Path, *steps: int) -> None:
    with JsonlWriter(path) as writer:
        for step in steps:
            writer.write({"step": step, "loss": step / 2})


def test_growing_file_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = GrowingFile(path)
    assert list(file.new_lines()) == []
    path.write_bytes(b'{"step": 0}\n{"step"')
    assert list(file.new_lines()) == [{"step": 0}]
    with path.open("ab") as stream:
        stream.write(b': 1}\n{"step": 2}\n')
    assert list(file.new_lines()) == [{"step": 1}, {"step": 2}]
    with path.open("ab") as stream:
        stream.write(b'{"step": 3, "text": "%s"}\n{"step": 4}\n' % (b"x" * 2**21))
    assert [len(line.get("text", "")) for line in file.new_lines()] == [2**21, 0]
    assert list(file.new_lines()) == []
    cut_jsonl(path, lambda line: line["step"] < 1)
    assert list(file.new_lines()) == [{"step": 0}]


def test_steps_written_again_by_a_resumed_learner_are_logged_once(tmp_path: Path) -> None:
    path, tracker = tmp_path / "metrics.jsonl", Recording()
    follower = _follow(tracker, path)
    _write(path, 0, 1, 2)
    _until(lambda: tracker.steps == [0, 1, 2])
    cut_jsonl(path, lambda line: line["step"] < 1)
    _write(path, 1, 2, 3)
    _until(lambda: tracker.steps == [0, 1, 2, 3])
    _write(path, 4)
    follower.end("finished")
    follower.join(20)
    assert tracker.steps == [0, 1, 2, 3, 4]
    assert tracker.status == "finished"


def test_later_start_sends_missing_steps_with_finite_numbers_only(tmp_path: Path) -> None:
    path, tracker = tmp_path / "metrics.jsonl", Recording(first=2)
    _write(path, 0, 1, 2, 3)
    with JsonlWriter(path) as writer:
        writer.write({"step": 4, "loss": 0.5, "kl": None, "name": "x", "groups_used": 4})
    follower = _follow(tracker, path)
    follower.end("killed")
    follower.join(20)
    assert (tracker.steps, tracker.status) == ([2, 3, 4], "killed")
    assert tracker.values == [{"loss": 1.0}, {"loss": 1.5}, {"loss": 0.5, "groups_used": 4.0}]


def test_failing_tracker_is_dropped_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, tracker = tmp_path / "metrics.jsonl", Recording(fails_at=1)
    follower = _follow(tracker, path)
    _write(path, 0, 1, 2, 3)
    _until(lambda: bool(caplog.records))
    follower.end("finished")
    follower.join(20)
    assert tracker.steps == [0]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "tracker recording" in message and "ConnectionError: no route" in message


def test_hanging_tracker_is_left_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, tracker = tmp_path / "metrics.jsonl", Recording(hangs_at=1)
    _write(path, 0, 1)
    follower = _follow(tracker, path)
    follower.end("finished")
    started = time.monotonic()
    follower.join(0.05)
    assert time.monotonic() - started < 5
    assert "0.05 s" in caplog.text
    tracker.released.set()
    follower.join(20)


@pytest.mark.parametrize(
    ("error", "status"), [(None, "finished"), (ValueError, "failed"), (KeyboardInterrupt, "killed")]
)
def test_tracker_status_follows_the_end_of_the_run(
    error: type[BaseException] | None, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Recording()
    monkeypatch.setattr(running, "TRACKERS", {"tensorboard": lambda spec: tracker})
    paths = RunPaths(tmp_path)
    _write(paths.metrics, 0)

    expected = nullcontext() if error is None else pytest.raises(error)
    with expected, open_trackers([TensorBoardSpec()], "x", paths, {}):
        if error is not None:
            raise error
    assert (tracker.steps, tracker.status) == ([0], status)


def test_impossible_trackers_are_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'polyray\[tracking\]'"):
        check_trackers([WandbSpec()])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_trackers([TensorBoardSpec(), WandbSpec(), MlflowSpec()])
    with pytest.raises(ConfigError, match="wandb twice"):
        check_trackers([WandbSpec(), WandbSpec(project="other")])
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        MlflowSpec(tracking_uri="https://me:secret@host/x")
