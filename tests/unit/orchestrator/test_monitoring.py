"""Metrics of a run, recorded after Ray's own checks of values and tags."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.exceptions
from ray.util.metrics import Gauge, Metric

from polyray.orchestrator import monitoring
from polyray.orchestrator.monitoring import (
    OTHER_GAUGES,
    PREFIX,
    RUN_TAGS,
    STEP_VALUES,
    Instruments,
    RunLoad,
    RunMetrics,
)
from polyray.orchestrator.rollout_actor import RolloutReply
from polyray.types import METRIC_KEYS, PolicyVersion
from tests.unit.orchestrator.fakes import FakePool, make_config, make_payload, started, until

Recorded = dict[tuple[str, tuple[str, ...]], list[float]]
RUN = {"run": "c", "runs_dir": str(Path.cwd() / "runs")}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """(name without the prefix, values of its own tags) -> everything recorded there, in order."""
    values: Recorded = {}

    def record(metric: Any, value: float, tags: dict[str, str] | None = None) -> None:
        complete = metric._get_final_tags(tags)
        metric._validate_tags(complete)
        assert set(complete) == set(metric.info["tag_keys"])
        assert {key: complete[key] for key in RUN_TAGS} == RUN
        own = tuple(complete[key] for key in metric.info["tag_keys"] if key not in RUN_TAGS)
        values.setdefault((metric.info["name"].removeprefix(PREFIX), own), []).append(value)

    monkeypatch.setattr(Metric, "_record", record)
    return values


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def load(**changes: Any) -> RunLoad:
    values: dict[str, Any] = {
        "groups_running": 6, "groups_waiting": 2, "groups_stale": 1, "workers": 2, "workers_behind": 1,
        "tokens": 512, "delivery_failures": 0, "incidents": [],
    }  # fmt: skip
    return RunLoad(**{**values, **changes})


def reply(num_samples: int = 4, num_scored: int = 4) -> RolloutReply:
    policy = PolicyVersion(1, 0, "0" * 64)
    return RolloutReply(0, policy, 12, num_samples, num_scored, num_scored, True, 0.1, 0.1, None)


def test_a_step_is_exported_under_its_names_and_tags(recorded: Recorded) -> None:
    metrics = RunMetrics(make_config(), Clock(), lambda: 1_700_000_000.0)
    metrics.step(
        {
            "step": 3,
            "reward_mean": 0.5,
            "reward/exact": 0.25,
            "validation/pass_at_1": 0.75,
            "lr": 1e-4,
            "deliver_s": 0.03,
            "idle_generate": 0.4,
            "gpu_memory_peak_bytes": 2**30,
            "monitor/mismatch": 1,
        }
    )
    metrics.export(load())
    expected = {
        ("step", ()): 3,
        ("reward_mean", ()): 0.5,
        ("reward_component", ("exact",)): 0.25,
        ("validation", ("pass_at_1",)): 0.75,
        ("learning_rate", ()): 1e-4,
        ("phase_seconds", ("deliver",)): 0.03,
        ("delivery_seconds", ()): 0.03,
        ("idle_share", ("rollout",)): 0.4,
        ("learner_gpu_memory_bytes", ("peak",)): 2**30,
        ("alarms_total", ("mismatch",)): 1,
        ("alarms_total", ("collapse",)): 0,
        ("last_step_timestamp_seconds", ()): 1_700_000_000.0,
        ("groups_running", ()): 6,
        ("groups_waiting", ()): 2,
        ("groups_stale_total", ()): 1,
        ("workers", ()): 2,
        ("workers_behind", ()): 1,
        ("tokens_generated_total", ()): 512,
        ("target_steps", ()): 10,
        ("info", ("hidden_trap_grid", "grpo", "embedded")): 1,
    }
    assert {key: recorded.get(key) for key in expected} == {key: [value] for key, value in expected.items()}


def test_totals_begin_at_zero_and_grow(recorded: Recorded) -> None:
    clock = Clock()
    metrics = RunMetrics(make_config(), clock)
    metrics.export(load())
    metrics.took(reply(), "kept")
    metrics.took(reply(num_scored=1), "unscored")
    lost = {"kind": "worker_replaced", "message": "..."}
    clock.now += monitoring.EXPORT_EVERY_S
    metrics.export(load(delivery_failures=1, incidents=[lost]))
    clock.now += monitoring.EXPORT_EVERY_S
    metrics.export(load(delivery_failures=1, incidents=[lost, lost, {"kind": "new", "message": ""}]))
    assert recorded["groups_total", ("kept",)] == [0, 1, 1]
    assert recorded["groups_total", ("unscored",)] == [0, 1, 1]
    assert recorded["groups_total", ("zero_advantage",)] == [0, 0, 0]
    assert recorded["completions_total", ()] == [0, 8, 8]
    assert recorded["completions_unscored_total", ()] == [0, 3, 3]
    assert recorded["delivery_failures_total", ()] == [0, 1, 1]
    assert recorded["incidents_total", ("worker_replaced",)] == [0, 1, 2]
    assert recorded["incidents_total", ("failure",)] == [0, 0, 0]
    assert recorded["incidents_total", ("new",)] == [1]


def test_metric_that_is_no_number_keeps_its_last_value(recorded: Recorded) -> None:
    clock = Clock()
    metrics = RunMetrics(make_config(), clock)
    metrics.step({"entropy": 0.5, "diversity": np.float64(0.25), "note": "text", "deliver_s": 0.0})
    metrics.export(load())
    metrics.step({"entropy": math.nan, "diversity": None})
    clock.now += monitoring.EXPORT_EVERY_S
    metrics.export(load())
    assert recorded["entropy_nats", ()] == [0.5, 0.5] and recorded["diversity", ()] == [0.25, 0.25]
    assert ("delivery_seconds", ()) not in recorded


def test_ray_is_called_at_intervals_only(recorded: Recorded) -> None:
    clock = Clock()
    metrics = RunMetrics(make_config(), clock)
    for tenth in range(100):
        clock.now = 100 + tenth / 10
        metrics.step({"reward_mean": tenth, "deliver_s": 0.01})
        metrics.export(load())
    assert recorded["reward_mean", ()] == [0, 20, 40, 60, 80]
    assert recorded["delivery_seconds", ()] == [0.01] * 81


def test_components_that_a_reward_makes_up_do_not_add_up(recorded: Recorded) -> None:
    metrics = RunMetrics(make_config(), Clock())
    metrics.step({f"reward/part-{number}": 0.5 for number in range(monitoring.MAX_COMPONENTS + 20)})
    metrics.export(load())
    exported = [own for name, own in recorded if name == "reward_component"]
    assert exported == [(f"part-{number}",) for number in range(monitoring.MAX_COMPONENTS)]


def test_a_failure_of_ray_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[object] = []

    def refuse(*arguments: object, **keywords: object) -> None:
        calls.append(arguments)
        raise RuntimeError("no agent")

    monkeypatch.setattr(Gauge, "set", refuse)
    clock = Clock()
    metrics = RunMetrics(make_config(), clock)
    for _ in range(3):
        clock.now += 100
        metrics.step({"reward_mean": 0.5})
        metrics.export(load())
    assert len(calls) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("RuntimeError: no agent")


def test_an_export_costs_less_than_a_millisecond_each_second() -> None:
    clock = Clock()
    metrics = RunMetrics(make_config(), clock)
    line = dict.fromkeys(METRIC_KEYS, 0.5) | {f"validation/{number}": 0.5 for number in range(25)}
    metrics.step(line)
    metrics.export(load())
    rounds = 20
    started_at = time.process_time()
    for _ in range(rounds):
        clock.now += monitoring.EXPORT_EVERY_S
        metrics.step(line)
        metrics.export(load())
    spent = (time.process_time() - started_at) / rounds
    assert spent < 0.001 * monitoring.EXPORT_EVERY_S


def test_every_step_value_is_a_key_of_the_run(recorded: Recorded) -> None:
    beside = {"pass_at_8", "delivery_difference_max", "logprob_difference_max"}
    assert set(STEP_VALUES) - beside <= set(METRIC_KEYS)
    names = [name for name, _ in STEP_VALUES.values()]
    assert len({*names, *OTHER_GAUGES}) == len(names) + len(OTHER_GAUGES)


def test_the_docstring_lists_the_tags() -> None:
    listed = dict(re.findall(r"(\w+)\{([\w, ]+)\}", monitoring.__doc__ or ""))
    tagged = {
        name.removesuffix("_total"): ", ".join(tags) for name, (_, tags) in OTHER_GAUGES.items() if tags
    }
    assert {name.removeprefix(PREFIX): tags for name, tags in listed.items()} == tagged
    assert all(gauge.info["name"] == PREFIX + name for name, gauge in Instruments().gauges.items())


async def test_coordinator_exports_its_events(
    no_ray: None, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "EXPORT_EVERY_S", 0.0)
    pool = FakePool()
    coordinator = await started(pool)
    await until(lambda: coordinator._buffer.num_buffered == 3)
    await coordinator.report({"step": 0, "reward_mean": 0.5})
    await coordinator.progress()
    assert recorded["reward_mean", ()] == [0.5]
    assert recorded["groups_waiting", ()] == [3] and recorded["groups_total", ("kept",)] == [3]
    assert recorded["completions_total", ()] == [12] and recorded["tokens_generated_total", ()] == [36]
    assert recorded["workers_behind", ()] == [0] and recorded["delivery_failures_total", ()] == [0]

    worker = coordinator._table.rows[0].worker.handle
    worker.refuses = ray.exceptions.ActorDiedError()
    assert await coordinator.publish(make_payload(1)) is not None  # by its replacement, too
    await coordinator.progress()
    assert recorded["delivery_failures_total", ()] == [0, 1]
    assert recorded["incidents_total", ("worker_replaced",)] == [0, 1]
    assert recorded["workers_behind", ()] == [0, 0]


async def test_a_version_that_is_not_proven_is_counted(
    no_ray: None, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "EXPORT_EVERY_S", 0.0)
    pool = FakePool()
    coordinator = await started(pool)
    pool.made[1].lies = True
    assert await coordinator.publish(make_payload(1)) is None
    await coordinator.progress()
    assert recorded["delivery_failures_total", ()] == [1]
    assert recorded["incidents_total", ("failure",)] == [1]
