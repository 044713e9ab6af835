"""All trackers of one run, from its start to its end."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from polyray.config.tracking import TrackerSpec
from polyray.errors import ConfigError
from polyray.extensions import install
from polyray.runs.run_directory import RunPaths
from polyray.runs.trackers.base import RunIdentity, Status, Tracker
from polyray.runs.trackers.following import Follower
from polyray.runs.trackers.mlflow import MlflowTracker
from polyray.runs.trackers.tensorboard import TensorBoardTracker
from polyray.runs.trackers.wandb import WandbTracker

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy"),
}
"""Packages that each type of tracker imports."""

TRACKERS: Mapping[str, Callable[[Any], Tracker]] = {
    "tensorboard": lambda spec: TensorBoardTracker(),
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}

PATIENCE_S = 30.0
"""Seconds for all trackers together, after the end of the run."""


def check_trackers(specs: Sequence[TrackerSpec]) -> None:
    """Raise ConfigError for a tracker without its package, or one that is listed twice."""
    for position, spec in enumerate(specs):
        missing = [name for name in PACKAGES[spec.type] if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"tracking[{position}] is {spec.type}, but {' and '.join(missing)} is not installed; run: "
                f"{install('tracking')} (or remove it from tracking)"
            )
        if spec.type in [other.type for other in specs[:position]]:
            raise ConfigError(f"tracking lists {spec.type} twice; once is enough")


@contextmanager
def open_trackers(
    specs: Sequence[TrackerSpec], name: str, paths: RunPaths, config: Mapping[str, Any]
) -> Iterator[None]:
    """Inside, every tracker is fed from the run's metrics.jsonl; at the end it has a while to take the rest."""
    identity = RunIdentity(name, paths.tracking)
    followers = [
        Follower(spec.type, TRACKERS[spec.type](spec), paths.metrics, config, identity) for spec in specs
    ]
    status: Status = "finished"
    try:
        yield
    except Exception:
        status = "failed"
        raise
    except BaseException:
        status = "killed"
        raise
    finally:
        for follower in followers:
            follower.end(status)
        deadline = time.monotonic() + PATIENCE_S
        for follower in followers:
            follower.join(max(0.0, deadline - time.monotonic()))
