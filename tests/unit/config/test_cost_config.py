"""The price table that every job's file may have."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.cli.quickstart import build_plan
from polyray.config.cost import PriceTableSpec
from polyray.config.curate import CurateConfig
from polyray.config.judge import JudgeConfig
from polyray.config.loader import build_config, load_config
from polyray.config.reward_model import TrainRewardConfig
from polyray.config.reward_validation import RewardValidationConfig
from polyray.config.run import EvaluateConfig, PretrainConfig, QuickstartConfig, SftConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.launch.sft import as_training

JOBS = (
    CurateConfig,
    EvaluateConfig,
    JudgeConfig,
    PretrainConfig,
    QuickstartConfig,
    RewardValidationConfig,
    SftConfig,
    SweepConfig,
    TrainConfig,
    TrainRewardConfig,
)
PRICES = "prices={currency: EUR, core_hour: 0.02, gpu_hour: 2.1}"
TABLE = PriceTableSpec(currency="EUR", core_hour=0.02, gpu_hour=2.1)


@pytest.mark.parametrize("model", JOBS)
def test_every_job_has_prices_and_none_by_default(model: Any) -> None:
    assert model.model_fields["prices"].default is None


@pytest.mark.parametrize("name", list(PriceTableSpec.model_fields))
def test_every_key_says_what_it_is(name: str) -> None:
    assert PriceTableSpec.model_fields[name].description


def test_a_table_on_the_command_line() -> None:
    config = load_config(PretrainConfig, "configs/pretrain.yaml", [PRICES])
    assert config.prices == TABLE


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({}, "prices in USD name no price; give core_hour or gpu_hour"),
        ({"core_hour": -0.1}, r"prices\.core_hour=-0\.1: .*greater than or equal to 0"),
        ({"gpu_hour": float("nan")}, r"prices\.gpu_hour=nan: .*finite|prices\.gpu_hour=nan: .*greater"),
        ({"core_hour": 1, "currency": "euro"}, r"prices\.currency='euro': "),
        ({"core_hours": 1}, r"unknown key 'prices\.core_hours'; did you mean 'prices\.core_hour'"),
    ],
)
def test_a_price_that_is_none_is_refused(prices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(PretrainConfig, {"prices": prices})


def test_the_parts_of_a_quickstart_have_its_prices() -> None:
    config = load_config(QuickstartConfig, "configs/quickstart.yaml", [PRICES])
    plan = build_plan(config, load_config(PretrainConfig, str(config.pretrain)), seed=0)
    parts = (plan.sft, *plan.arms.values(), plan.evaluate)
    assert [part.prices for part in parts] == [TABLE] * (len(config.arms) + 2)


def test_polychromic_sft_keeps_its_prices() -> None:
    config = load_config(SftConfig, "configs/sft/hidden_trap_grid_polychromic.yaml", [PRICES])
    training = as_training(config)
    assert training is not None
    assert training.prices == TABLE
