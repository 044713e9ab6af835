"""SFT configurations that are refused, and their errors."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.run import SftConfig
from polyray.errors import ConfigError

JSONL: dict[str, Any] = {"type": "jsonl", "train": "mine.jsonl"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 2}, r"epochs=2\.0.*learner\.steps"),
        ({"too_long": "drop"}, r"too_long='drop'.*data\.type=jsonl"),
        ({"data": JSONL, "evaluation": {"every": 5}}, r"data\.validation.*data\.validation_share"),
        ({"evaluation": {"early_stopping": {"patience": 2}}}, r"early_stopping.* every\b"),
        (
            {"data": {**JSONL, "validation": "v.jsonl", "validation_share": 0.1}},
            r"validation=.*validation_share=0\.1",
        ),
        (
            {"task": {"type": "jsonl", "path": "p.jsonl"}, "evaluation": {"every": 5}},
            r"evaluation\.every.*task\.type=jsonl.*data\.validation",
        ),
        ({"objective": {"type": "gem", "beta": 0}}, r"objective\.beta=0"),
        ({"objective": {"type": "gem", "betta": 1}}, "'objective.beta'"),
    ],
)
def test_incompatible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(SftConfig, {"name": "a", **values})
