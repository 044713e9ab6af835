"""The real TensorBoard, W&B (offline) and MLflow (local store): one run over two starts, no step twice, no token.

Where a kill can leave a tracker with a step more than its state file says, the second start finds it so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from polyray.config.tracking import MlflowSpec, TensorBoardSpec, WandbSpec, as_one_experiment
from polyray.runs.trackers.base import RunIdentity, Tracker
from polyray.runs.trackers.mlflow import MlflowTracker
from polyray.runs.trackers.tensorboard import TensorBoardTracker
from polyray.runs.trackers.wandb import WandbTracker

CONFIG: Mapping[str, Any] = {"name": "first", "learner": {"steps": 5, "betas": [0.9, 0.95]}}
TOKEN = "0123456789abcdef0123456789abcdef01234567"


def _two_starts(tracker: Callable[[], Tracker], directory: Path, behind: Path | None = None) -> list[int]:
    """Steps 0 to 2, then whatever is missing of 0 to 4; `behind` is a state file that does not know of step 2."""
    identity = RunIdentity("first", directory)
    first = tracker()
    begun = [first.start(CONFIG, identity)]
    for step in range(3):
        first.log(step, _values(step))
    first.finish("killed")
    if behind is not None:
        behind.write_text(json.dumps({**json.loads(behind.read_text()), "next_step": 2}))
    second = tracker()
    begun.append(second.start(CONFIG, identity))
    for step in range(begun[-1], 5):
        second.log(step, _values(step))
    second.finish("finished")
    return begun


def _values(step: int) -> dict[str, float]:
    return {"loss": 1.0 / (step + 1), "validation/pass_at_1": 0.1 * step, "policy_version": step + 1.0}


def test_tensorboard_gets_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert _two_starts(TensorBoardTracker, tmp_path, tmp_path / "tensorboard.json") == [0, 2]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "policy_version", "validation/pass_at_1"]
    points = events.Scalars("loss")
    assert [point.step for point in points] == [0, 1, 2, 3, 4]
    assert [point.value for point in points] == pytest.approx([1 / (step + 1) for step in range(5)])
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_mlflow_gets_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="optional: pip install -e .[tracking]")
    pytest.importorskip("sqlalchemy", reason="MLflow's local store needs it")
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

    assert _two_starts(lambda: MlflowTracker(MlflowSpec()), tmp_path) == [0, 3]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("polyray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.params["learner.steps"] == "5"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(5)]
    logging.getLogger("mlflow").setLevel(logging.NOTSET)


def test_sweep_trials_share_one_mlflow_experiment_for_every_start(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="optional: pip install -e .[tracking]")
    pytest.importorskip("sqlalchemy", reason="MLflow's local store needs it")
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

    spec = as_one_experiment(MlflowSpec(), "lambda", tmp_path)

    def trial(number: int) -> None:
        tracker = MlflowTracker(spec)  # type: ignore[arg-type]
        tracker.start({"seed": number}, RunIdentity(f"t{number}", tmp_path / f"t{number}"))
        tracker.log(0, _values(0))
        tracker.finish("finished")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(trial, range(3)))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lambda")
    runs = client.search_runs([experiment.experiment_id])
    assert {(run.info.run_name, run.data.params["seed"]) for run in runs} == {
        (f"t{number}", str(number)) for number in range(3)
    }
    logging.getLogger("mlflow").setLevel(logging.NOTSET)


def test_as_one_experiment_keeps_a_configured_experiment(tmp_path: Path) -> None:
    mlflow = MlflowSpec(tracking_uri="http://tracking:5000", experiment="mine")
    assert as_one_experiment(mlflow, "lambda", tmp_path) == mlflow
    assert as_one_experiment(WandbSpec(), "lambda", tmp_path) == WandbSpec(group="lambda")
    assert as_one_experiment(WandbSpec(group="g"), "lambda", tmp_path) == WandbSpec(group="g")
    assert as_one_experiment(TensorBoardSpec(), "lambda", tmp_path) == TensorBoardSpec()


def test_wandb_offline_gets_each_step_once_and_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="optional: pip install -e .[tracking]")
    monkeypatch.setenv("WANDB_API_KEY", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    directory = tmp_path / "tracking"
    spec = WandbSpec(mode="offline", project="p", tags=("t",))
    assert _two_starts(lambda: WandbTracker(spec), directory) == [0, 3]
    run_id = json.loads((directory / "wandb.json").read_text())["run_id"]
    files = sorted((directory / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.name for path in files} == {f"run-{run_id}.wandb"}
    assert [_steps(path) for path in files] == [[0, 1, 2], [3, 4]]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), f"{path} holds the API key"


def _steps(path: Path) -> list[int]:
    """The steps of the history records in a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2  # type: ignore[import-not-found]

    content, steps = path.read_bytes(), []
    assert content[:4] == b":W&B" and len(content) < 32768  # one block, so every record is whole
    position = 7
    while position < len(content):
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[position + 7 : position + 7 + length])
        if record.WhichOneof("record_type") == "history":
            steps.append(record.history.step.num)
        position += 7 + length
    return steps
