"""Training on real parts with a remote reward or second opinion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.errors import MonitorStopped
from polyray.launch.fleet import Fleet
from polyray.rewards import plan_reward
from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from polyray.serving.reward.run import RewardServiceAddress, start_reward_service, stop_reward_service
from tests.conftest import run_training

pytestmark = pytest.mark.slow

Values = Callable[..., dict[str, Any]]


def test_a_service_elsewhere_trains_the_same_adapter_as_the_handle(
    finished: RunPaths, varied_fleet: Fleet, varied_values: Values
) -> None:
    values = varied_values("over-http")
    values["reward"] = {"type": "http", "url": varied_fleet.reward.url, "classes": "service"}
    config = build_config(TrainConfig, values)
    plan = plan_reward(config.reward, config.task, config.diversity)
    address = RewardServiceAddress("over-http-remote", varied_fleet.reward.url)
    paths = run_training(config, Fleet(varied_fleet.pool, address, plan))
    expected, lines = read_jsonl(finished.metrics), read_jsonl(paths.metrics)
    assert [line["reward_mean"] for line in lines] == [line["reward_mean"] for line in expected]
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    assert all(line["unscored"] == 0 for line in lines)


def test_second_opinion_is_logged_without_a_change_of_training(
    finished: RunPaths, varied_fleet: Fleet, varied_values: Values
) -> None:
    values = varied_values("second") | {"second_opinion": {"type": "verifier"}}
    values["monitors"] = [{"preset": "@over_optimisation", "rule": {"window": 10}}]
    config = build_config(TrainConfig, values)
    plan = plan_reward(config.reward, config.task, config.diversity, config.second_opinion)
    address = start_reward_service("second", plan)
    try:
        paths = run_training(config, Fleet(varied_fleet.pool, address))
    finally:
        stop_reward_service("second")
    expected, lines = read_jsonl(finished.metrics), read_jsonl(paths.metrics)
    for line, other in zip(lines, expected, strict=True):
        assert (line["reward_mean"], line["loss"]) == (other["reward_mean"], other["loss"])
        assert 0 <= line["reward/second_opinion"] <= 1
        assert line["second_opinion_missing"] == 0 and line["monitor/over_optimisation"] == 0
        assert -1 <= (line["second_opinion_correlation"] or 0) <= 1
    assert lines[0]["second_opinion_gap"] in (0, None)


def test_alarm_with_stop_ends_the_run(
    varied_fleet: Fleet, varied_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of the coordinator is replaced; the learner is another process."""
    from polyray.orchestrator.coordinator import Coordinator

    real = Coordinator.report

    async def alarmed(self: Coordinator, metrics: dict[str, Any]) -> None:
        await real(self, metrics | {"monitor/over_optimisation": int(metrics["step"] >= 1)})

    monkeypatch.setattr(Coordinator, "report", alarmed)
    values = varied_values("stopped") | {"second_opinion": {"type": "verifier"}}
    values["monitors"] = [{"preset": "@over_optimisation", "action": "stop"}]
    with pytest.raises(MonitorStopped, match="step 1: "):
        run_training(build_config(TrainConfig, values), varied_fleet)
