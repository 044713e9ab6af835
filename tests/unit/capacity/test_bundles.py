"""Packing the parts of a run onto machines. With a real cluster: tests/chaos/node_lost.py."""

from __future__ import annotations

import re
from typing import Any

import pytest

from polyray.capacity.bundles import (
    Machine,
    Part,
    engines,
    fleet_parts,
    learner_ranks,
    misfit,
    times,
    total,
    training_parts,
)
from polyray.config.learner import LearnerSpec
from polyray.config.loader import build_config
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig


def machine(cpus: float, gpus: float = 0, **labels: str) -> Machine:
    return Machine({"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {}), labels)


def said(parts: list[Part], *machines: Machine) -> str | None:
    found = misfit(parts, {f"m{number}": one for number, one in enumerate(machines)})
    return None if found is None else found.text


def engine(count: int, cpus: float, gpus: float = 0) -> Part:
    return Part("engine", count, {"CPU": cpus} | ({"GPU": gpus} if gpus else {}))


def test_misfit_of_the_total_names_the_sum() -> None:
    found = misfit([engine(3, 2), Part("learner rank", 1, {"CPU": 1.0})], {"a": machine(4), "b": machine(2)})
    assert found is not None
    assert found.resource == "CPU" and re.search(r"\b7 CPUs .*\b6$", found.text)
    found = misfit([engine(2, 1, 1)], {"a": machine(8)})
    assert found is not None
    assert found.resource == "GPU" and re.search(r"\b2 GPUs .*\b0$", found.text)


RANK = Part("learner rank", 1, {"CPU": 1.0, "GPU": 1.0})
REPLICAS = Part("replica", 3, {"CPU": 2.0})


@pytest.mark.parametrize(
    ("parts", "machines"),
    [
        ([engine(1, 1, 2)], [machine(8, 2)]),
        ([engine(2, 2, 1)], [machine(4, 2), machine(8)]),
        ([REPLICAS, engine(2, 4, 1)], [machine(4, 1), machine(8, 1), machine(2)]),
        ([Part("replica", 4, {"CPU": 1.0}), engine(2, 2, 1)], [machine(2, 1), machine(2, 1), machine(4)]),
        ([engine(4, 0, 0.5)], [machine(4, 2)]),
        ([engine(2, 0, 0.5), RANK], [machine(4, 2)]),
        ([engine(2, 0, 0.75), RANK], [machine(4, 3)]),
        ([engine(10, 0.1)], [machine(1)]),
        ([Part("trial", 100, {"CPU": 0.01})], [machine(1)]),
        # The engine, larger by its GPU, would go first to the machine that it leaves least of.
        ([engine(1, 1, 1), Part("learner rank", 2, {"CPU": 6.0})], [machine(6, 1), machine(7, 1)]),
    ],
)
def test_misfit_is_none_in_any_order_if_parts_fit(parts: list[Part], machines: list[Machine]) -> None:
    assert said(parts, *machines) is None
    assert said(parts[::-1], *machines) is None


@pytest.mark.parametrize(
    ("parts", "machines", "expected"),
    [
        (
            [engine(1, 1, 2)],
            [machine(8, 1), machine(8, 1)],
            r"1 x engine \(1 CPU, 2 GPUs\).* 1 x engine .*\bm0 .*8 CPUs, 1 GPU .*\bm1 .*8 CPUs, 1 GPU ",
        ),
        (
            [engine(2, 2, 1)],
            [machine(1, 2), machine(8)],
            r"2 x engine \(2 CPUs, 1 GPU\).* 2 x engine .*\bm0 .*1 CPU, 2 GPUs .*\bm1 .*8 CPUs, 0 GPUs ",
        ),
        (
            [engine(3, 0, 0.6)],
            [machine(4, 2)],
            r"3 x engine \(0 CPUs, 0\.6 GPUs\).* 1 x engine .*\bm0 .*0 GPUs, 0\.4 of a GPU, 0\.4 of a GPU ",
        ),
        ([REPLICAS, engine(2, 5, 1)], [machine(4, 1), machine(8, 1), machine(2)], "16 CPUs .* 14"),
        ([engine(2, 0, 0.7), RANK], [machine(4, 2.4)], " 1 x engine "),
        ([engine(1, 1, 1), Part("learner rank", 2, {"CPU": 6.0})], [machine(5, 1), machine(8, 1)], ""),
        ([engine(1, 1, 2)], [machine(1, 1)] * 30, r"(1 CPU, 1 GPU .*){8}\b22 more machines"),
    ],
)
def test_misfit_names_parts_and_machines(parts: list[Part], machines: list[Machine], expected: str) -> None:
    text = said(parts, *machines)
    assert text is not None and re.search(expected, text)


def test_misfit_respects_labels() -> None:
    part = Part("engine", 2, {"CPU": 1.0, "GPU": 1.0}, {"kind": "in(H100,H200)"})
    assert said([part], machine(4, 1, kind="H100"), machine(4, 1, kind="H200"), machine(4, 1)) is None
    text = str(said([part], machine(4, 1, kind="H100"), machine(4, 4, kind="A100")))
    assert "2 x engine (1 CPU, 1 GPU, kind: in(H100,H200))" in text
    assert re.search(r" 1 x engine .*\bm0 .*3 CPUs, 0 GPUs .*\bm1 .*labels$", text)


def test_misfit_of_hundreds_of_machines_is_quick() -> None:
    parts = [engine(500, 4, 1), Part("learner rank", 8, {"CPU": 1.0, "GPU": 1.0})]
    assert said(parts, *[machine(8, 1)] * 508) is None


def config(**changes: Any) -> TrainConfig:
    return build_config(TrainConfig, {"name": "x", **changes})


def test_training_parts_are_engines_replicas_and_ranks() -> None:
    rollout = {"num_workers": 3, "cpus_per_worker": 2, "gpus_per_worker": 0.5, "gpu_memory_utilization": 0.45}
    run = config(
        rollout=rollout,
        learner={"num_workers": 2, "use_gpu": True},
        reward={"service": {"num_replicas": 4, "num_cpus": 0.5, "num_gpus": 0.25}},
    )
    parts = training_parts(run)
    assert [part.text() for part in parts] == [
        "3 x engine (2 CPUs, 0.5 GPUs)",
        "4 x reward replica (0.5 CPUs, 0.25 GPUs)",
        "2 x learner rank (1 CPU, 1 GPU)",
    ]
    assert (total(parts, "CPU"), total(parts, "GPU")) == (10.0, 4.5)
    assert fleet_parts(run) == parts[:2]
    assert times(parts, 3)[0].count == 9
    elsewhere = config(reward={"type": "http", "url": "http://127.0.0.1:1/x"})
    assert [part.what for part in training_parts(elsewhere)] == ["engine", "learner rank"]


@pytest.mark.parametrize(
    ("use_gpu", "share", "resources"),
    [
        (False, 0.5, {"CPU": 1.0}),
        (True, 1.0, {"CPU": 1.0, "GPU": 1.0}),
        (True, 0.5, {"CPU": 1.0, "GPU": 0.5}),
    ],
)
def test_learner_rank_takes_its_gpu_share_if_use_gpu(
    use_gpu: bool, share: float, resources: dict[str, float]
) -> None:
    assert learner_ranks(LearnerSpec(use_gpu=use_gpu, gpus_per_worker=share)).resources == resources
    assert engines(RolloutSpec()).resources == {"CPU": 1.0}


def test_engine_and_rank_share_one_gpu() -> None:
    run = config(
        rollout={"gpus_per_worker": 0.5, "node_labels": {"a": "b"}},
        learner={"use_gpu": True, "gpus_per_worker": 0.5, "node_labels": {"c": "d"}},
        reward={"service": {"node_labels": {"e": "f"}}},
    )
    assert [part.node_labels for part in training_parts(run)] == [{"a": "b"}, {"e": "f"}, {"c": "d"}]
    assert said(training_parts(run), machine(3, 1, a="b", c="d", e="f")) is None
    assert said(training_parts(run), machine(3, 1, a="b", c="d")) is not None
