"""Shared fixtures: one local Ray, one embedded model, one fleet of engines and one finished training run.

Each starts with the first test that asks for it. The model is a short training of the real one: enough
to be a real vLLM and Hugging Face model, not enough to plan paths (the quickstart shows that).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from polyray.config.run import TrainConfig
    from polyray.launch.fleet import Fleet
    from polyray.runs.run_directory import RunPaths

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
PRETRAIN_STEPS = 60
CLUSTER_TESTS = frozenset({"integration", "chaos", "gpu"})
WITHOUT_ENGINES = frozenset(
    {
        "test_simulated_faults.py",
        "test_shared_fleet.py",
        "test_sweep_small.py",
        "test_stopped_sft.py",
        "test_train_reward.py",
        "test_learner_failures.py",
        "test_sandbox_reward.py",
        "test_smollm2.py",
        "test_generation_service.py",
        "test_generation_replicas.py",
    }
)
"""Of those, tests that need a Ray but not the fleet: the other process starts one of its own for them."""
WITHOUT_CLUSTER = frozenset(
    {
        "test_engine_check.py",
        "test_gpu_benchmark.py",
        "test_judge_vllm.py",
        "test_lm_eval.py",
        "test_proof_benchmark.py",
        "test_python_api.py",
        "test_checkpoint_faults.py",
        "test_documents.py",
        "test_generation_page.py",
        "test_quantised_engine.py",
        "test_ray_session.py",
        "test_report_page.py",
        "test_smollm2_commands.py",
        "test_submit.py",
        "test_training_commands.py",
        "test_wheel.py",
    }
)
"""Integration tests that start processes of their own instead."""
MARK = "POLYRAY_TEST_MARK"
"""Environment variable that every process of this test session carries, so that only its own are ever killed."""


if "PYTEST_XDIST_WORKER" in os.environ:
    # Two test processes share the cores: a second thread in each would only wait for a core, spinning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `pytest -n 2`: tests that share one Ray and one fleet are run by one process, and first, because they
    take longest; the other process begins with those that share a Ray. The rest go file by file to any free process.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ClustersFirst(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            if file.parent.name not in CLUSTER_TESTS or file.name in WITHOUT_CLUSTER:
                return str(file)
            return "services" if file.name in WITHOUT_ENGINES else "clusters"

    config.option.loadscopereorder = (
        False  # the order of pyproject's testpaths instead of the largest file first
    )
    return ClustersFirst(config, log)


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
    from polyray.runs.jsonl import read_jsonl
    from polyray.types import is_timing_key

    return [
        {key: value for key, value in line.items() if not is_timing_key(key)} for line in read_jsonl(metrics)
    ]


def command_lines(mark: str) -> list[str]:
    """Command lines of the processes with this mark, for a message."""
    files = [Path(f"/proc/{pid}/cmdline") for pid in marked_processes(mark)]
    return [file.read_bytes().replace(b"\0", b" ").decode() for file in files if file.exists()]


def alive_actors() -> set[str]:
    """Names of the actors that live on this session's Ray."""
    from ray.util import list_named_actors

    named: list[Any] = list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in named}


@pytest.fixture(scope="session")
def killed_marks() -> Iterator[list[str]]:
    """Marks of runs that were killed: when the session ends, none of their processes is left.

    Ray's own agents of a killed cluster try for a minute to report its end; the other tests need not wait for them.
    """
    marks: list[str] = []
    yield marks
    deadline = time.monotonic() + 90
    while left := [line for mark in marks for line in command_lines(mark)]:
        assert time.monotonic() < deadline, f"processes of a killed run are left after 90 s: {left}"
        time.sleep(0.1)


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
        RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",  # as jobs.train on one machine: a process less for every run
        RAY_TRAIN_ENABLE_STATE_TRACKING="0",
        RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60",
    )
    ray.init(
        address="local",
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
    from polyray.learner.embedded import build_embedded

    cache = tmp_path_factory.mktemp("cache")
    build_embedded(PretrainConfig(cache_dir=str(cache), steps=PRETRAIN_STEPS, batch_rows=64, num_threads=1))
    return cache


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory with smollm2, one for all test processes; skips where its package is not installed."""
    from polyray.errors import MissingFile
    from polyray.models.smollm2 import find_source, make_smollm2

    try:
        find_source()
    except MissingFile as missing:
        pytest.skip(str(missing))
    root = tmp_path_factory.getbasetemp()
    cache = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "smollm2"
    make_smollm2(cache)
    return cache


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the session's runs."""
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
            "delivery": {"mode": "merged"},
            "dynamics": None,
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
    from polyray.launch.fleet import open_fleet
    from polyray.launch.plan import plan_fleet

    with open_fleet(plan_fleet(train_config("fleet")), "tests") as fleet:
        fleet.pool.wait_until_ready()
        yield fleet


def run_training(config: TrainConfig, fleet: Fleet) -> RunPaths:
    """A whole training run as `jobs.train` does it, on engines and a reward service that are there already."""
    from polyray.launch.plan import plan_training
    from polyray.launch.train import train
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

    plan = plan_training(config)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        train(plan, directory, fleet, display)
        return directory.paths


@pytest.fixture(scope="session")
def warm_start(ray_session: None, model_cache: Path, runs_dir: Path) -> Path:
    """The adapter of a short SFT run on Ray Train."""
    from polyray.config.loader import build_config
    from polyray.config.run import SftConfig
    from polyray.launch.plan import plan_sft
    from polyray.launch.sft import supervise
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

    values = {
        "name": "sft",
        "runs_dir": str(runs_dir),
        "model": {"cache_dir": str(model_cache), "lora": {"rank": 4, "alpha": 8}},
        "learner": {"steps": 30, "checkpoint_every": 15, "num_threads": 1, "learning_rate": 3e-3},
    }
    config = build_config(SftConfig, values)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        supervise(plan_sft(config), directory, display)
        return directory.paths.adapter


@pytest.fixture(scope="session")
def varied_values(
    train_values: Callable[..., dict[str, Any]], warm_start: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Six polychromic steps from the warm start with a reward that differs from completion to completion, so
    that every step has something to learn however little the model can."""
    file = tmp_path_factory.mktemp("reward") / "varied.py"
    file.write_text("def score(items):\n    return [len(set(item['completion'])) / 16 for item in items]\n")
    reward = {"type": "python", "path": f"{file}:score", "service": {"port": 0, "num_cpus": 0.5}}
    algorithm = {"type": "polychromic", "objective": "cluster", "diversity_weight": 1.0, "set_size": 3}
    common = {"model__warm_start": str(warm_start), "learner__steps": 6}
    return lambda name, **changes: train_values(
        name, reward=reward, algorithm=algorithm, **{**common, **changes}
    )


@pytest.fixture(scope="session")
def varied_config(varied_values: Callable[..., dict[str, Any]]) -> Callable[..., TrainConfig]:
    """`varied_values`, validated."""
    from polyray.config.loader import build_config
    from polyray.config.run import TrainConfig

    return lambda name, **changes: build_config(TrainConfig, varied_values(name, **changes))


@pytest.fixture(scope="session")
def varied_fleet(fleet: Fleet, varied_config: Callable[..., TrainConfig]) -> Iterator[Fleet]:
    """The session's engines with that reward."""
    from polyray.launch.fleet import Fleet
    from polyray.rewards import plan_reward
    from polyray.serving.reward.run import start_reward_service, stop_reward_service

    config = varied_config("varied")
    address = start_reward_service("varied", plan_reward(config.reward, config.task, config.diversity))
    yield Fleet(fleet.pool, address)
    stop_reward_service("varied")


@pytest.fixture(scope="session")
def finished(varied_fleet: Fleet, varied_config: Callable[..., TrainConfig]) -> RunPaths:
    """Such a run, to which nothing happened."""
    return run_training(varied_config("finished"), varied_fleet)
