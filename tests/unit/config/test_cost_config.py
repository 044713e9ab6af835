"""The price table that every job's file may have."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.cli.quickstart import build_plan
from polyray.config.cost import PriceTableSpec
from polyray.config.loader import build_config, load_config
from polyray.config.run import PretrainConfig, QuickstartConfig, SftConfig
from polyray.errors import ConfigError
from polyray.launch.sft import as_training

PRICES = "prices={currency: EUR, core_hour: 0.02, gpu_hour: 2.1}"
TABLE = PriceTableSpec(currency="EUR", core_hour=0.02, gpu_hour=2.1)


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({}, r"core_hour.*gpu_hour"),
        ({"core_hour": -0.1}, r"prices\.core_hour=-0\.1: .*\b0\b"),
        ({"gpu_hour": float("nan")}, r"prices\.gpu_hour=nan: "),
        ({"core_hour": 1, "currency": "euro"}, r"prices\.currency='euro': "),
        ({"core_hours": 1}, r"'prices\.core_hours'.*'prices\.core_hour'"),
    ],
)
def test_price_table_with_a_mistake_is_refused(prices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(PretrainConfig, {"prices": prices})


def test_price_table_reaches_every_part_of_a_job() -> None:
    config = load_config(QuickstartConfig, "configs/quickstart.yaml", [PRICES])
    plan = build_plan(config, load_config(PretrainConfig, str(config.pretrain)), seed=0)
    parts = (*plan.sfts.values(), *plan.arms.values(), plan.evaluate)
    sft = load_config(SftConfig, "configs/sft/hidden_trap_grid_polychromic.yaml", [PRICES])
    training = as_training(sft)
    assert training is not None
    assert [part.prices for part in (*parts, training)] == [TABLE] * (len(config.arms) + 3)


def test_monitors_and_logging_of_polychromic_sft_are_those_of_its_file() -> None:
    file = "configs/sft/hidden_trap_grid_polychromic.yaml"
    plain = as_training(load_config(SftConfig, file))
    assert plain is not None and [monitor.name for monitor in plain.monitors] == [
        "mismatch",
        "low_ess",
        "collapse",
    ]
    own = ['monitors=[{preset: "@collapse", action: stop}]', "logging=json"]
    training = as_training(load_config(SftConfig, file, own))
    assert training is not None and training.logging == "json"
    assert [(monitor.name, monitor.action) for monitor in training.monitors] == [("collapse", "stop")]
