"""What tests share: one local Ray, one embedded model and one fleet of engines for the whole session.

Each starts with the first test that asks for it. The model is a short training of the real one: enough
to be a real vLLM and Hugging Face model, not enough to plan paths (the quickstart shows that).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jobs.fleet import Fleet
    from polyray.config.run import TrainConfig

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
PRETRAIN_STEPS = 60
MARK = "POLYRAY_TEST_MARK"
"""Environment variable that every process of this test session carries, so that only its own are ever killed."""


def session_mark() -> str:
    """The mark of this session's own Ray."""
    return f"session-{os.getpid()}"


def marked_processes(mark: str) -> list[int]:
    """Live processes that carry the mark, however they were started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes()
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                continue
            if alive and f"{MARK}={mark}\0".encode() in variables:
                found.append(int(entry.name))
    return found


def reproducible(metrics: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl without what depends on the clock."""
    from polyray.observability.jsonl import read_jsonl
    from polyray.types import is_timing_key

    return [
        {key: value for key, value in line.items() if not is_timing_key(key)} for line in read_jsonl(metrics)
    ]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray whose workers can import services/ and jobs/."""
    import ray

    os.environ.update(
        RAY_AUTH_MODE="disabled",
        HF_HUB_OFFLINE="1",
        PYTHONPATH=str(REPOSITORY_ROOT),
        **{MARK: session_mark()},
        RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5",
    )
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        namespace="polyray-tests",
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which `model.path: embedded` is found."""
    from polyray.config.run import PretrainConfig
    from polyray.models.embedded import build_embedded

    cache = tmp_path_factory.mktemp("cache")
    build_embedded(PretrainConfig(cache_dir=str(cache), steps=PRETRAIN_STEPS, batch_rows=64, num_threads=1))
    return cache


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's runs lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def train_values(model_cache: Path, runs_dir: Path) -> Callable[..., dict[str, Any]]:
    """Builds the plain values of a small TrainConfig: 4 steps of 4 prompts x 6 samples, a checkpoint every
    2."""

    def build(name: str, **changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "name": name,
            "runs_dir": str(runs_dir),
            "model": {"cache_dir": str(model_cache), "lora": {"rank": 4, "alpha": 8}},
            "reward": {"service": {"port": 0, "num_cpus": 0.5}},
            "rollout": {"num_workers": 2, "prompts_per_step": 4, "group_size": 6},
            "learner": {"steps": 4, "checkpoint_every": 2, "num_threads": 1, "learning_rate": 5e-3},
        }
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            node = values
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = value
        return values

    return build


@pytest.fixture(scope="session")
def train_config(train_values: Callable[..., dict[str, Any]]) -> Callable[..., TrainConfig]:
    """`train_values`, validated."""
    from polyray.config.loader import build_config
    from polyray.config.run import TrainConfig

    return lambda name, **changes: build_config(TrainConfig, train_values(name, **changes))


@pytest.fixture(scope="session")
def fleet(ray_session: None, train_config: Callable[..., TrainConfig]) -> Iterator[Fleet]:
    """Two vLLM engines and a verifier reward service that every run of `train_config` can use."""
    from jobs.fleet import open_fleet

    with open_fleet(train_config("fleet"), "tests") as fleet:
        fleet.pool.wait_until_ready()
        yield fleet
