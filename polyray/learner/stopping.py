"""Whether the run is to end after the step under way, with one answer for all ranks."""

from __future__ import annotations

from pathlib import Path

from polyray.learner.reduce import from_rank_0
from polyray.runs.stop_request import is_stop_requested


def agreed_to_stop(run_dir: Path, rank: int) -> bool:
    """Whether rank 0 sees a stop request in the run directory; all ranks must call it at the same step."""
    return from_rank_0(rank == 0 and is_stop_requested(run_dir))
