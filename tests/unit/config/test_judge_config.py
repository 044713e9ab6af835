"""Mistakes in a judge's configuration; a misplaced API key is never repeated."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.config.judge import CRITERIA, HANNA_CRITERIA, JudgeConfig, JudgeSpec
from polyray.config.loader import build_config
from polyray.errors import ConfigError

JUDGE: dict[str, Any] = {"provider": "anthropic", "model": "m"}


def test_criteria_are_named_described_or_a_preset() -> None:
    own = {"name": "wit", "description": "It is funny."}
    spec = build_config(JudgeSpec, JUDGE | {"criteria": ["coherence", own]})
    assert [(item.name, item.description) for item in spec.criteria] == [
        ("coherence", CRITERIA["coherence"]), ("wit", "It is funny."),
    ]  # fmt: skip
    hanna = build_config(JudgeSpec, JUDGE | {"criteria": "hanna"})
    assert tuple(item.name for item in hanna.criteria) == HANNA_CRITERIA
    assert build_config(JudgeSpec, spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({}, "ANTHROPIC_API_KEY"),
        ({"provider": "openai"}, "OPENAI_API_KEY"),
        ({"base_url": "http://127.0.0.1:8000"}, None),
        ({"base_url": "http://127.0.0.1:8000", "api_key_env": "MINE"}, "MINE"),
    ],
)
def test_key_variable_follows_provider_and_address(values: dict[str, str], variable: str | None) -> None:
    assert build_config(JudgeSpec, JUDGE | values).key_variable == variable


JOB: dict[str, Any] = {"name": "n", "judge": JUDGE}


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (JudgeSpec, JUDGE | {"provider": "gemini"}, "provider='gemini'"),
        (JudgeSpec, JUDGE | {"criteria": ["helpfulness"]}, "'helpfulness'"),
        (JudgeSpec, JUDGE | {"criteria": ["relevance", "relevance"]}, "criteria=['relevance', 'relevance']"),
        (JudgeSpec, JUDGE | {"criteria": [{"name": "overall", "description": "d"}]}, "criteria=['overall']"),
        (JudgeSpec, JUDGE | {"criteria": []}, "criteria"),
        (JudgeSpec, JUDGE | {"scale": {"low": 3, "high": 3}}, "scale low=3, high=3"),
        (JudgeSpec, JUDGE | {"scale": {"low": 0, "high": 100}}, "scale low=0, high=100"),
        (JudgeSpec, JUDGE | {"budget": {"max_cost_usd": 5}}, "budget.max_cost_usd=5"),
        (JudgeSpec, JUDGE | {"base_url": "127.0.0.1:8000"}, "base_url='127.0.0.1:8000'"),
        (JudgeConfig, JOB, "samples"),
        (JudgeConfig, JOB | {"samples": "s", "mode": "rubric", "compare_to": "a"}, "compare_to"),
        (JudgeConfig, JOB | {"samples": "s", "models": ["a"], "compare_to": "b"}, "compare_to='b'"),
        (JudgeConfig, JOB | {"samples": "s", "human_ratings": "h"}, "human_ratings"),
    ],
)
def test_mistake_of_a_judge_is_named(model: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(model, values)
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
def test_key_in_the_configuration_is_refused_without_repeating_it(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(JudgeSpec, JUDGE | values)
    assert "secret" not in str(caught.value)
