"""Metrics and algorithms of passes are refused, and no default, where no reward says that something passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.sweeps.plan import plan_trials, with_default_metric

ENGAGEMENT = {"type": "engagement", "path": "model"}
JSONL = {"type": "jsonl", "path": "a.jsonl"}
REPLIES = {"type": "social_replies"}


def python(high: float) -> dict[str, Any]:
    return {"type": "python", "path": "a.py:score", "score_range": [0.0, high]}


def composite(*rewards: dict[str, Any], weight: float = 1.0) -> dict[str, Any]:
    parts = [
        {"name": f"p{n}", "reward": reward, "weight": weight if n else 1.0}
        for n, reward in enumerate(rewards)
    ]
    return {"type": "composite", "parts": parts}


VERIFIER = {"type": "verifier"}
WITHOUT_PASSES = [
    (VERIFIER, REPLIES),
    (VERIFIER, {"type": "headlines"}),
    (VERIFIER, {"type": "creative_writing"}),
    (ENGAGEMENT, JSONL),
    ({"type": "heuristic"}, JSONL),
    (python(0.9), JSONL),
    (composite(VERIFIER, ENGAGEMENT), JSONL),
]
WITH_PASSES = [
    (VERIFIER, {"type": "hidden_trap_grid"}),
    (VERIFIER, JSONL),
    (VERIFIER, {"type": "math"}),
    ({"type": "sandbox"}, {"type": "code"}),
    (python(1.0), JSONL),
    (python(1.0), REPLIES),
    ({"type": "http", "url": "http://127.0.0.1:1"}, REPLIES),
    (composite(VERIFIER, ENGAGEMENT, weight=0.0), JSONL),
]


def train(reward: dict[str, Any], task: dict[str, Any], **values: Any) -> TrainConfig:
    return build_config(TrainConfig, {"name": "t", "reward": reward, "task": task, **values})


@pytest.mark.parametrize(("reward", "task"), WITHOUT_PASSES)
def test_run_without_passes_chooses_by_reward(reward: dict[str, Any], task: dict[str, Any]) -> None:
    config = train(reward, task, evaluation={"every": 5})
    assert config.evaluation is not None
    assert (config.evaluation.best_metric, config.evaluation.every) == ("reward_mean", 5)
    again = build_config(TrainConfig, config.model_dump(mode="json"))
    assert again == config
    for name in ("reward_mean", "best_at_8", "diversity"):
        chosen = train(reward, task, evaluation={"best_metric": name}).evaluation
        assert chosen is not None and chosen.best_metric == name


@pytest.mark.parametrize(("reward", "task"), WITH_PASSES)
def test_run_with_passes_chooses_by_pass_metrics(reward: dict[str, Any], task: dict[str, Any]) -> None:
    config = train(
        reward, task, evaluation={}, algorithm={"type": "pass_at_k"}, learner={"best_metric": "pass_at_8"}
    )
    assert config.evaluation is not None and config.evaluation.best_metric == "pass_at_1"


@pytest.mark.parametrize(("reward", "task"), WITHOUT_PASSES)
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"evaluation": {"best_metric": "pass_at_1"}}, "evaluation.best_metric=reward_mean"),
        (
            {"evaluation": {"best_metric": "distinct_correct_at_8"}},
            "evaluation.best_metric='distinct_correct_at_8'",
        ),
        ({"learner": {"best_metric": "validation/pass_at_8"}}, "learner.best_metric=reward_mean"),
        ({"algorithm": {"type": "pass_at_k"}}, "pkpo"),
        ({"algorithm": {"type": "ucpo"}}, "unlikeliness"),
        ({"algorithm": {"type": "grpo", "focal_gamma": 0.5}}, "focal_gamma=0.5"),
        ({"monitors": [{"preset": "@collapse", "metric": "validation/pass_at_8"}]}, "monitor collapse"),
    ],
)
def test_run_without_passes_refuses_pass_metrics(
    reward: dict[str, Any], task: dict[str, Any], values: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        train(reward, task, **values)
    assert named in str(raised.value)


def test_evaluation_of_a_reward_without_passes_needs_a_checker() -> None:
    values: dict[str, Any] = {"name": "e", "adapters": {"base": None}, "reward": ENGAGEMENT, "task": JSONL}
    with pytest.raises(ConfigError, match="checker="):
        build_config(EvaluateConfig, values)
    build_config(EvaluateConfig, values | {"checker": {"type": "reward_threshold", "threshold": 0.5}})
    build_config(EvaluateConfig, values | {"task": REPLIES})


def sweep(tmp_path: Path, **values: Any) -> SweepConfig:
    file = tmp_path / "train.yaml"
    file.write_text(
        "name: t\ntask: {type: social_replies}\nevaluation: {every: 5}\n"
        "algorithm: {type: polychromic, objective: pairwise, diversity_weight: 0.5}\n"
        "diversity: {source: task_distance}\n"
    )
    asked = {"algorithm.diversity_weight": {"grid": [0.0, 1.0]}}
    return build_config(SweepConfig, {"name": "s", "train": str(file), "parameters": asked, **values})


def test_sweep_without_passes_compares_rewards(tmp_path: Path) -> None:
    config = with_default_metric(sweep(tmp_path))
    assert config.metric == "reward_mean" and len(plan_trials(config)) == 2
    named = with_default_metric(sweep(tmp_path, metric="pass_at_8"))
    with pytest.raises(ConfigError, match=r"metric='pass_at_8'.*set metric=reward_mean"):
        plan_trials(named)
    objectives = {"type": "optuna", "num_settings": 2, "objectives": [{"metric": "pass_at_1"}]}
    with pytest.raises(ConfigError, match=r"search\.objectives='pass_at_1'"):
        plan_trials(with_default_metric(sweep(tmp_path, search=objectives)))


def test_sweep_with_passes_keeps_its_metric(tmp_path: Path) -> None:
    assert (
        with_default_metric(sweep(tmp_path, overrides=["task.type=hidden_trap_grid"])).metric == "pass_at_8"
    )
