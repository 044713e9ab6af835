"""What tests share: one local Ray for the whole session, started by the first test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray whose workers can import services/ and jobs/."""
    import ray

    os.environ.update(RAY_AUTH_MODE="disabled", HF_HUB_OFFLINE="1", PYTHONPATH=str(REPOSITORY_ROOT))
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        namespace="polyray-tests",
        log_to_driver=False,
    )
    yield
    ray.shutdown()
