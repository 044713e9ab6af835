"""Unquoted values of files and overrides: texts stay as they were typed, numbers are read by their field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import load_config
from polyray.config.run import EvaluateConfig, TrainConfig
from polyray.config.serve import RewardServeConfig
from polyray.config.sweep import SweepConfig

TEXTS = ["12e5", "inf", "nan", "1_000", "1e3", "0x10", "on", "yes", "no", "2026-01-01", "null", "1.0", "007"]


@pytest.mark.parametrize("text", TEXTS)
def test_unquoted_text_of_a_file_or_an_override_stays_as_typed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"name: {text}\ntask: {{salt: {text}}}\n", encoding="utf-8")
    for overrides in ((), (f"name={text}",), (f'name="{text}"',)):
        config = load_config(TrainConfig, path, overrides)
        assert (config.name, config.task.salt) == (text, text)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.learning_rate=2e-3", 0.002),
        ("learner.steps=1_000", 1000),
        ("learner.steps=1e2", 100),
        ("learner.betas=[8e-1, 0.9]", (0.8, 0.9)),
        ("learner.use_gpu=off", False),
        ("model.warm_start=null", None),
        ("learner.node_labels={zone: on}", {"zone": "on"}),
    ],
)
def test_value_of_another_field_is_read_by_its_type(tmp_path: Path, override: str, expected: Any) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("name: a\n", encoding="utf-8")
    section, _, field = override.partition("=")[0].partition(".")
    found = getattr(getattr(load_config(TrainConfig, path, [override]), section), field)
    assert found == expected and type(found) is type(expected)


def test_text_that_is_no_yaml_is_taken_by_a_text_field(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("name: a\n", encoding="utf-8")
    reward = "reward={type: http, url: 'http://h', protocol: openrlhf, raw_range: [0, 1]}"
    config = load_config(TrainConfig, path, [reward, "reward.query={prompt}: [{completion}"])
    assert config.reward.query == "{prompt}: [{completion}"  # type: ignore[union-attr]


def test_members_of_unions_and_collections_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(
        "service: reward\nname: 1e1\nmodels:\n  on: {type: python, path: a.py:f}\nrevision: 2026-01-01\n"
    )
    served = load_config(RewardServeConfig, path)
    assert (served.name, list(served.models), served.revision) == ("1e1", ["on"], "2026-01-01")
    path.write_text("name: a\nadapters: {no: null, 12: runs/x}\n")
    assert list(load_config(EvaluateConfig, path).adapters) == ["no", "12"]
    path.write_text(
        "name: a\ntrain: t.yaml\nparameters: {seed_: {grid: [1e-3, on, 2]}}\noverrides: [name=on]\n"
    )
    sweep = load_config(SweepConfig, path)
    assert (sweep.parameters["seed_"].grid, sweep.overrides) == (("1e-3", True, 2), ("name=on",))
