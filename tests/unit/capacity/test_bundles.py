"""Packing what a run places onto machines: what fits, what does not, and how it is said. With a real cluster:
tests/chaos/node_lost.py."""

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


def test_the_sum_of_two_machines_does_not_hold_an_engine_of_two_gpus() -> None:
    assert said([engine(1, 1, 2)], machine(8, 2)) is None
    expected = r"1 x engine \(1 CPU, 2 GPUs\).* 1 x engine .*\bm0 .*8 CPUs, 1 GPU .*\bm1 .*8 CPUs, 1 GPU "
    assert re.search(expected, str(said([engine(1, 1, 2)], machine(8, 1), machine(8, 1))))


def test_cpus_and_gpus_are_needed_on_the_same_machine() -> None:
    expected = r"2 x engine \(2 CPUs, 1 GPU\).* 2 x engine .*\bm0 .*1 CPU, 2 GPUs .*\bm1 .*8 CPUs, 0 GPUs "
    assert re.search(expected, str(said([engine(2, 2, 1)], machine(1, 2), machine(8))))
    assert said([engine(2, 2, 1)], machine(4, 2), machine(8)) is None


def test_largest_parts_are_placed_first_in_any_order() -> None:
    small, large = Part("replica", 3, {"CPU": 2.0}), engine(2, 4, 1)
    machines = machine(4, 1), machine(8, 1), machine(2)
    assert said([small, large], *machines) is None
    assert said([large, small], *machines) is None
    assert said([small, engine(2, 5, 1)], *machines) is not None


def test_part_without_gpu_leaves_gpu_machines_free() -> None:
    parts = [Part("replica", 4, {"CPU": 1.0}), engine(2, 2, 1)]
    assert said(parts, machine(2, 1), machine(2, 1), machine(4)) is None


def test_a_share_of_a_gpu_lies_on_one_gpu() -> None:
    assert said([engine(4, 0, 0.5)], machine(4, 2)) is None
    expected = r"3 x engine \(0 CPUs, 0\.6 GPUs\).* 1 x engine .*\bm0 .*4 CPUs, 0 GPUs, 0\.4 of a GPU, 0\.4 of a GPU "
    assert re.search(expected, str(said([engine(3, 0, 0.6)], machine(4, 2))))
    whole = Part("learner rank", 1, {"CPU": 1.0, "GPU": 1.0})
    assert said([engine(2, 0, 0.5), whole], machine(4, 2)) is None
    assert said([engine(2, 0, 0.75), whole], machine(4, 3)) is None
    assert " 1 x engine " in str(said([engine(2, 0, 0.7), whole], machine(4, 2.4)))


def test_ten_tenths_are_one() -> None:
    assert said([engine(10, 0.1)], machine(1)) is None
    assert said([Part("trial", 100, {"CPU": 0.01})], machine(1)) is None


def test_a_part_goes_only_to_machines_with_its_labels() -> None:
    part = Part("engine", 2, {"CPU": 1.0, "GPU": 1.0}, {"kind": "in(H100,H200)"})
    assert said([part], machine(4, 1, kind="H100"), machine(4, 1, kind="H200"), machine(4, 1)) is None
    text = str(said([part], machine(4, 1, kind="H100"), machine(4, 4, kind="A100")))
    assert "2 x engine (1 CPU, 1 GPU, kind: in(H100,H200))" in text
    assert re.search(r" 1 x engine .*\bm0 .*3 CPUs, 0 GPUs .*\bm1 .*labels$", text)


def test_placement_tries_other_orders_before_refusal() -> None:
    # The engine, larger by its GPU, would go first to the machine that it leaves least of.
    parts = [engine(1, 1, 1), Part("learner rank", 2, {"CPU": 6.0})]
    assert said(parts, machine(6, 1), machine(7, 1)) is None
    assert said(parts, machine(5, 1), machine(8, 1)) is not None


def test_no_more_than_eight_machines_are_named() -> None:
    text = str(said([engine(1, 1, 2)], *[machine(1, 1)] * 30))
    assert text.count("1 CPU, 1 GPU ") == 8
    assert re.search(r"\b22 more machines", text)


def test_a_thousand_machines_take_no_time() -> None:
    parts = [engine(500, 4, 1), Part("learner rank", 8, {"CPU": 1.0, "GPU": 1.0})]
    assert said(parts, *[machine(8, 1)] * 508) is None


def config(**changes: Any) -> TrainConfig:
    return build_config(TrainConfig, {"name": "x", **changes})


def test_the_parts_of_a_training_run() -> None:
    run = config(
        rollout={
            "num_workers": 3,
            "cpus_per_worker": 2,
            "gpus_per_worker": 0.5,
            "gpu_memory_utilization": 0.45,
        },
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


def test_a_reward_elsewhere_places_nothing() -> None:
    run = config(reward={"type": "http", "url": "http://127.0.0.1:1/x"})
    assert [part.what for part in training_parts(run)] == ["engine", "learner rank"]


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


def test_an_engine_and_a_rank_share_one_gpu() -> None:
    run = config(
        rollout={"gpus_per_worker": 0.5, "node_labels": {"a": "b"}},
        learner={"use_gpu": True, "gpus_per_worker": 0.5, "node_labels": {"c": "d"}},
        reward={"service": {"node_labels": {"e": "f"}}},
    )
    assert [part.node_labels for part in training_parts(run)] == [{"a": "b"}, {"e": "f"}, {"c": "d"}]
    assert said(training_parts(run), machine(3, 1, a="b", c="d", e="f")) is None
    assert said(training_parts(run), machine(3, 1, a="b", c="d")) is not None
