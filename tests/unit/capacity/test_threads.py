"""Threads of engines and learners on CPUs."""

from __future__ import annotations

import os

import pytest

from polyray.capacity.threads import (
    engine_threads,
    learner_threads,
    sharing_cores,
    with_learner_threads,
    with_threads,
)
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import SftConfig, TrainConfig


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


LARGE, SMALL = ModelSpec(path="smollm2"), ModelSpec(path="embedded")


@pytest.mark.parametrize(
    ("rollout", "model", "threads"),
    [
        ({}, LARGE, 8),
        ({"num_workers": 3}, LARGE, 2),
        ({"num_workers": 16}, LARGE, 1),
        ({}, SMALL, 1),
        ({"max_staleness": 1}, LARGE, 1),
        ({"gpus_per_worker": 1}, LARGE, 1),
        ({"threads_per_worker": 5, "max_staleness": 1}, SMALL, 5),
        ({}, ModelSpec(path="someone/Else-7B"), 1),
    ],
)
def test_large_base_uses_all_cores_when_the_learner_waits(
    rollout: dict[str, int], model: ModelSpec, threads: int
) -> None:
    spec = RolloutSpec.model_validate(rollout)
    assert engine_threads(spec, model)[0] == threads
    assert with_threads(spec, model) == spec.model_copy(update={"threads_per_worker": threads})


@pytest.mark.parametrize(
    ("learner", "rollout", "model", "threads"),
    [
        ({}, {}, LARGE, 8),
        ({"num_workers": 3}, {}, LARGE, 2),
        ({}, {"max_staleness": 1, "num_workers": 2}, LARGE, 6),
        ({}, {"max_staleness": 1, "num_workers": 2, "threads_per_worker": 4}, LARGE, 1),
        ({}, {"max_staleness": 1, "gpus_per_worker": 1}, LARGE, 8),
        ({}, {}, SMALL, 2),
        ({"use_gpu": True}, {}, LARGE, 2),
        ({"num_threads": 3}, {"max_staleness": 1}, SMALL, 3),
    ],
)
def test_learner_of_a_large_base_has_the_cores_that_engines_leave(
    learner: dict[str, int], rollout: dict[str, int], model: ModelSpec, threads: int
) -> None:
    config = TrainConfig.model_validate({"name": "t", "learner": learner, "rollout": rollout})
    assert learner_threads(config, model)[0] == threads
    assert with_learner_threads(config, model).learner.num_threads == threads
    assert learner_threads(SftConfig(name="t"), LARGE)[0] == 8, "no engine shares the cores"


@pytest.mark.parametrize(
    ("cores", "learner", "model", "runs", "threads"),
    [
        (8, {}, "smollm2", 4, (2, 1)),
        (8, {}, "smollm2", 9, (1, 1)),
        (2, {}, "smollm2", 2, (1, 1)),
        (8, {"use_gpu": True}, "smollm2", 4, (2, 1)),
        (8, {}, "embedded", 4, (2, 1)),
        (8, {"num_threads": 5}, "smollm2", 4, (5, 1)),
    ],
)
def test_trials_of_a_sweep_share_the_cores(
    cores: int,
    learner: dict[str, int],
    model: str,
    runs: int,
    threads: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    config = TrainConfig.model_validate({"name": "t", "learner": learner, "model": {"path": model}})
    shared = sharing_cores(config, runs)
    assert (shared.learner.num_threads, shared.rollout.threads_per_worker) == threads
    assert sharing_cores(config, 1) == config
