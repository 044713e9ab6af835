"""Entries of `monitors`: presets, defaults, former keys and entries that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.config.base import as_json
from polyray.config.loader import build_config
from polyray.config.monitors import PRESETS, MonitorSpec
from polyray.config.run import SftConfig, TrainConfig
from polyray.errors import ConfigError


def build(monitors: Any, **values: Any) -> TrainConfig:
    return build_config(TrainConfig, {"name": "t", "monitors": monitors, **values})


def test_default_monitors_are_presets() -> None:
    assert [item.name for item in TrainConfig(name="t").monitors] == ["mismatch", "low_ess", "collapse"]
    assert [item.name for item in SftConfig(name="t").monitors] == ["collapse"]
    assert build([]).monitors == ()


@pytest.mark.parametrize("name", PRESETS)
def test_preset_takes_changes_and_survives_config_json(name: str) -> None:
    changed = MonitorSpec.model_validate({"preset": f"@{name}", "action": "stop"})
    plain = MonitorSpec.model_validate(f"@{name}")
    assert (plain.name, plain.action, changed.action) == (name, "warn", "stop")
    assert changed.model_copy(update={"action": "warn"}) == plain
    assert MonitorSpec.model_validate(as_json(changed)) == changed
    assert plain.text.startswith(f"{plain.condition}; ") and all(key in plain.text for key in plain.metrics)


def test_own_monitor_is_named_by_its_metric_and_has_a_limit() -> None:
    (own,) = build([{"metric": "grad_norm", "rule": {"above": 3}}]).monitors
    assert (own.name, own.key, own.rule.type) == ("grad_norm", "monitor/grad_norm", "limit")
    assert own.text == own.condition


@pytest.mark.parametrize(
    ("model", "values", "presets"),
    [
        (TrainConfig, {"mismatch_alarm": {"stop": True}}, ["@mismatch", "@low_ess"]),
        (TrainConfig, {"over_optimisation": None}, ["@over_optimisation"]),
        (SftConfig, {"dynamics": {"collapse_alarm": {"drop": 0.4}}}, ["@collapse"]),
    ],
)
def test_former_alarm_key_names_monitors_and_its_entries(
    model: Any, values: dict[str, Any], presets: list[str]
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'monitors'") as error:
        build_config(model, {"name": "t", **values})
    assert all(f'"{name}"' in str(error.value) for name in presets)


@pytest.mark.parametrize(
    ("monitors", "message"),
    [
        (["@mismach"], "'@mismach'.*did you mean @mismatch"),
        (["@collapse", "@collapse"], "2 .*'collapse'.*name"),
        (["@over_optimisation"], "over_optimisation .*second_opinion: {type"),
        ([{"metric": "second_opinion_gap", "rule": {"above": 1}}], "second_opinion: {type"),
        ([{"metric": "validation/pass_at_1", "rule": {"type": "drop"}}], "validation/pass_at_1.*reward_mean"),
        ([{"metric": "x", "rule": {"above": 1, "below": 0}}], r"above=1.* below=0.*two monitors"),
        ([{"metric": "x", "rule": {}}], "above=None .*give one"),
        ([{"metric": "x", "rule": {"above": 1, "healthy": 1}}], "healthy=1 .*limit 1"),
        ([{"metric": "x", "rule": {"below": 1, "healthy": 0.5}}], "healthy=0.5 .*limit 1"),
        ([{"metric": "x", "rule": {"above": 1, "healthy": 0, "window": 4}}], "window=4.*at least 5"),
        ([{"metric": "x", "rule": {"type": "diverge", "other": "validation/y"}}], "'x' .*'validation/y'"),
        ([{"metric": "x", "rule": {"abov": 1}}], "did you mean 'monitors.0.rule.above'"),
    ],
)
def test_wrong_entry_is_refused_with_its_fix(monitors: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(monitors, task={"type": "headlines"}, reward={"type": "heuristic"})
