"""Threads of CPU engines."""

from __future__ import annotations

import os

import pytest

from polyray.capacity.threads import engine_threads, with_threads
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec

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
    rollout: dict[str, int], model: ModelSpec, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    spec = RolloutSpec.model_validate(rollout)
    assert engine_threads(spec, model)[0] == threads
    assert with_threads(spec, model) == spec.model_copy(update={"threads_per_worker": threads})
