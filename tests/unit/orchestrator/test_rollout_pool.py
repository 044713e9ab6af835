"""A pool whose workers are plain objects: what it does about one that is gone before it was ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import ray
import ray.exceptions

from polyray.cluster.session import CPU_ENVIRONMENT
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError, RolloutError
from polyray.orchestrator.rollout_pool import PoolWorker, RolloutPool

CANCELLED = ray.exceptions.ActorDiedError()


@dataclass
class Handle:
    """`answer` to whatever is asked; an exception is raised."""

    answer: Any
    killed: bool = False

    @property
    def ready(self) -> Handle:
        return self

    def remote(self) -> Any:
        return self.answer


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> tuple[RolloutPool, list[Handle]]:
    """Two workers; what each answers, replacements last, is set by the test."""
    handles = [Handle("a"), Handle("b"), Handle("c"), Handle("d")]
    unused = iter(handles)

    def start(self: RolloutPool, index: int) -> PoolWorker:
        handle = next(unused)
        return PoolWorker(index, f"worker-{handles.index(handle)}", handle)

    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(RolloutPool, "_start", start)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda handle: setattr(handle, "killed", True))
    return RolloutPool("run", RolloutSpec(num_workers=2)), handles


def test_a_worker_that_is_cancelled_before_it_started_is_started_once_more(
    pool: tuple[RolloutPool, list[Handle]],
) -> None:
    workers, handles = pool
    handles[1].answer = CANCELLED
    assert workers.wait_until_ready() == ["a", "c"]
    assert [worker.name for worker in workers.workers] == ["worker-0", "worker-2"]
    assert [handle.killed for handle in handles] == [False, True, False, False]


def test_the_second_one_too_ends_the_start(pool: tuple[RolloutPool, list[Handle]]) -> None:
    workers, handles = pool
    handles[1].answer = handles[2].answer = CANCELLED
    with pytest.raises(RolloutError, match=r"worker-2 .*ActorDiedError"):
        workers.wait_until_ready()


def test_an_engine_that_cannot_be_built_is_not_tried_again(pool: tuple[RolloutPool, list[Handle]]) -> None:
    workers, handles = pool
    handles[0].answer = ray.exceptions.RayTaskError("ready", "traceback", MemoryError("no room"))
    with pytest.raises(RolloutError, match=r"worker-0 .*MemoryError"):
        workers.wait_until_ready()
    assert not any(handle.killed for handle in handles)


def test_user_error_is_raised_unchanged(pool: tuple[RolloutPool, list[Handle]]) -> None:
    workers, handles = pool
    cause = ConfigError("rollout.gpus_per_worker=0; set 1")
    handles[1].answer = ray.exceptions.RayTaskError("ready", "traceback", cause)
    with pytest.raises(ConfigError, match=r"^rollout\.gpus_per_worker=0.*\b1$"):
        workers.wait_until_ready()
    assert not any(handle.killed for handle in handles)


def test_engines_that_start_one_after_another_have_the_time_of_all(
    pool: tuple[RolloutPool, list[Handle]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, _ = pool
    timeouts: list[float] = []
    monkeypatch.setattr(ray, "get", lambda answer, timeout: timeouts.append(timeout))
    share = {"num_workers": 2, "gpus_per_worker": 0.5, "gpu_memory_utilization": 0.45}
    for spec in (RolloutSpec(num_workers=2), RolloutSpec.model_validate(share)):
        workers.rollout = spec
        workers.wait_until_ready()
    assert timeouts == [300.0, 300.0, 600.0, 600.0]


@pytest.mark.parametrize(("gpus", "kept"), [(0, CPU_ENVIRONMENT), (1, {})])
def test_engine_on_a_cpu_keeps_freed_memory(
    gpus: int, kept: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    class Remote:
        def __init__(self, actor: type) -> None:
            pass

        def options(self, runtime_env: dict[str, Any], **others: Any) -> Remote:
            asked.append(runtime_env["env_vars"])
            return self

        def remote(self, *arguments: Any) -> Handle:
            return Handle("a")

    monkeypatch.setattr(ray, "remote", Remote)
    RolloutPool("run", RolloutSpec(num_workers=1, gpus_per_worker=gpus, threads_per_worker=3))
    assert asked == [{"OMP_NUM_THREADS": "3", **kept}]
