"""Mistakes in a judge's configuration; a misplaced API key is never repeated."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.config.judge import CRITERIA, HANNA_CRITERIA, JudgeConfig, JudgeSpec
from polyray.config.loader import build_config
from polyray.errors import ConfigError

JUDGE: dict[str, Any] = {"provider": "anthropic", "model": "m"}


def test_criteria_by_name_by_preset_and_described() -> None:
    own = {"name": "wit", "description": "It is funny."}
    spec = build_config(JudgeSpec, JUDGE | {"criteria": ["coherence", own]})
    assert [(item.name, item.description) for item in spec.criteria] == [
        ("coherence", CRITERIA["coherence"]), ("wit", "It is funny."),
    ]  # fmt: skip
    hanna = build_config(JudgeSpec, JUDGE | {"criteria": "hanna"})
    assert tuple(item.name for item in hanna.criteria) == HANNA_CRITERIA
    assert [item.name for item in build_config(JudgeSpec, JUDGE).criteria] == [
        "relevance",
        "coherence",
        "engagement",
    ]
    assert build_config(JudgeSpec, spec.model_dump(mode="json")) == spec, "config.json can be read back"


def test_key_variable_follows_provider_and_address() -> None:
    assert build_config(JudgeSpec, JUDGE).key_variable == "ANTHROPIC_API_KEY"
    assert build_config(JudgeSpec, JUDGE | {"provider": "openai"}).key_variable == "OPENAI_API_KEY"
    local = JUDGE | {"base_url": "http://127.0.0.1:8000"}
    assert build_config(JudgeSpec, local).key_variable is None
    assert build_config(JudgeSpec, local | {"api_key_env": "MINE"}).key_variable == "MINE"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"provider": "gemini"}, "provider='gemini'"),
        ({"criteria": ["helpfulness"]}, "'helpfulness'"),
        ({"criteria": ["relevance", "relevance"]}, "criteria=['relevance', 'relevance']"),
        ({"criteria": [{"name": "overall", "description": "d"}]}, "criteria=['overall']"),
        ({"criteria": []}, "criteria"),
        ({"scale": {"low": 3, "high": 3}}, "scale low=3, high=3"),
        ({"scale": {"low": 0, "high": 100}}, "scale low=0, high=100"),
        ({"budget": {"max_cost_usd": 5}}, "budget.max_cost_usd=5"),
        ({"base_url": "127.0.0.1:8000"}, "base_url='127.0.0.1:8000'"),
        ({"temprature": 0}, "'temperature'"),
    ],
)
def test_mistakes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(JudgeSpec, JUDGE | values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"api_key_env": "sk-ant-api03-secret"},
        {"api_key_env": "secret" * 20},
        {"base_url": "https://user:secret@example.com"},
        {"base_url": "https://example.com/v1?key=secret"},
    ],
)
def test_a_key_in_the_configuration_is_refused_without_repeating_it(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(JudgeSpec, JUDGE | values)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "samples"),
        ({"samples": "s", "mode": "rubric", "compare_to": "a"}, "compare_to"),
        ({"samples": "s", "models": ["a"], "compare_to": "b"}, "compare_to='b'"),
        ({"samples": "s", "human_ratings": "h"}, "human_ratings"),
    ],
)
def test_a_job_that_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(JudgeConfig, {"name": "n", "judge": JUDGE} | values)
    assert message in str(caught.value)
