"""MLflow: a tracking server, or an sqlite file in the run directory."""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyray.config.tracking import MlflowSpec
from polyray.runs.run_directory import flat_values
from polyray.runs.trackers.base import RunIdentity, Status, TrackerState

STEP = "policy_version"
"""A metric that every line has; its history says which steps MLflow has."""
SQLITE = "sqlite:///"
PARAMS_PER_CALL = 100
MAX_PARAM_CHARS = 500


class MlflowTracker:
    """One MLflow run per run directory; every start continues it by its id."""

    def __init__(self, spec: MlflowSpec) -> None:
        self._spec = spec

    def start(self, config: Mapping[str, Any], identity: RunIdentity) -> int:
        """Open the run, and ask MLflow for its last step: it would show a step twice that was sent twice."""
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # its database says every migration
        tracking: Any = importlib.import_module("mlflow.tracking")
        self._entities: Any = importlib.import_module("mlflow.entities")
        uri = self._spec.tracking_uri or f"{SQLITE}{(identity.directory / 'mlflow.db').resolve()}"
        local = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None
        with _alone_in(local):
            self._client = tracking.MlflowClient(tracking_uri=uri)
            experiment = self._experiment_id(local)
        state = TrackerState(identity, "mlflow")
        if state.run_id is None:
            run = self._client.create_run(experiment, run_name=identity.name)
            state.save(run_id=run.info.run_id)
            params = [
                self._entities.Param(key, str(value)[:MAX_PARAM_CHARS])
                for key, value in flat_values(config).items()
            ]
            for start in range(0, len(params), PARAMS_PER_CALL):
                self._client.log_batch(run.info.run_id, params=params[start : start + PARAMS_PER_CALL])
        assert state.run_id is not None
        self._run_id = state.run_id
        self._client.update_run(self._run_id, status="RUNNING")
        history = self._client.get_metric_history(self._run_id, STEP)
        return max((point.step + 1 for point in history), default=0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keys are those of metrics.jsonl; one call, in which the metric that says so comes last."""
        now = int(time.time() * 1000)
        ordered = sorted(metrics.items(), key=lambda item: item[0] == STEP)
        points = [self._entities.Metric(key, value, now, step) for key, value in ordered]
        self._client.log_batch(self._run_id, metrics=points)

    def finish(self, status: Status) -> None:
        """Ends the run with MLflow's own word for it."""
        self._client.set_terminated(self._run_id, status.upper())

    def _experiment_id(self, local: Path | None) -> str:
        found = self._client.get_experiment_by_name(self._spec.experiment)
        if found is None:
            artifacts = None if local is None else (local / "mlflow-artifacts").resolve().as_uri()
            try:
                return self._client.create_experiment(self._spec.experiment, artifact_location=artifacts)
            except importlib.import_module("mlflow.exceptions").MlflowException:
                found = self._client.get_experiment_by_name(self._spec.experiment)
                if found is None:  # no other process was faster: it is a real refusal
                    raise
        return found.experiment_id


@contextmanager
def _alone_in(directory: Path | None) -> Iterator[None]:
    """Lock the directory: the first process to open a database file creates its tables, and trials of a sweep
    share one.
    """
    if directory is None:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
