"""Ray Train ends at permanent errors of processes and retries other errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.config.learner import LearnerSpec
from polyray.config.run import SftConfig
from polyray.errors import DataError, LearnerError
from polyray.launch.trainer import TrainWorker, fit_trainer
from polyray.runs.run_directory import RunDirectory


def _loop(worker: TrainWorker) -> None:
    """Counts its starts, then raises."""
    with (worker.run_dir / "starts").open("a") as file:
        file.write(f"{worker.rank}\n")
    raise {"data": DataError, "type": TypeError, "device": RuntimeError}[worker.arguments["error"]](
        "row 3: no text"
    )


def _fitted(tmp_path: Path, error: str, max_failures: int) -> tuple[BaseException, int, str]:
    outcome: dict[str, BaseException] = {}
    learner = LearnerSpec(max_failures=max_failures, cpus_per_worker=0.5)
    config = SftConfig(name="run", runs_dir=str(tmp_path), learner=learner)
    with RunDirectory.open(config) as directory:
        fit_trainer(_loop, config, {"error": error}, directory, outcome)
        starts = len((directory.paths.root / "starts").read_text().splitlines())
        return outcome["error"], starts, (directory.paths.root / "error.log").read_text()


def test_permanent_error_of_learner_ends_training_at_first_occurrence(
    ray_session: None, tmp_path: Path
) -> None:
    error, starts, log = _fitted(tmp_path, "data", max_failures=3)
    assert type(error) is DataError
    assert str(error) == "row 3: no text"
    assert starts == 1
    assert "learner-0" in log and "in _loop" in log and log.count("Traceback") == 1


@pytest.mark.slow
def test_foreign_permanent_error_of_learner_becomes_learner_error(ray_session: None, tmp_path: Path) -> None:
    error, starts, _ = _fitted(tmp_path, "type", max_failures=3)
    assert type(error) is LearnerError
    assert str(error) == "rank 0 of the learner: TypeError: row 3: no text"
    assert starts == 1


@pytest.mark.slow
def test_transient_error_of_learner_is_tried_again_until_the_limit(ray_session: None, tmp_path: Path) -> None:
    error, starts, log = _fitted(tmp_path, "device", max_failures=1)
    assert type(error) is LearnerError
    assert "RuntimeError: row 3: no text" in str(error) and "learner.max_failures=1" in str(error)
    assert starts == 2
    assert log.count("Traceback") == 2
