"""Tag a replica's JSON log records with its name (polyray/runs/logging.py)."""

from __future__ import annotations

from ray import serve
from ray.serve.exceptions import RayServeException

from polyray.runs.logging import log_as


def log_as_replica() -> None:
    """A replica's lines carry its id, and as `run` the run its application is called after; elsewhere nothing
    happens."""
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return
    run = context.app_name.removesuffix("-reward").removesuffix("-generation")
    log_as(context.replica_id.unique_id, run)
