"""Validation while training: what is asked, what a group says, when a version's result is there."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from polyray.config.run import TrainConfig
from polyray.config.training_evaluation import TrainingEvaluationSpec
from polyray.errors import DataError
from polyray.rollout.seeds import sample_seed
from polyray.rollout.validation import Validation, ValidationSummary, summarise, validation_prompts
from polyray.tasks import build_task
from polyray.types import PolicyVersion
from tests.unit.tiny_policy import random_group, train_config

NAN = float("nan")


def _config(**evaluation: Any) -> TrainConfig:
    values = {"every": 3, "num_prompts": 2, "num_samples": 4, **evaluation}
    return train_config(evaluation=values, learner={"steps": 7})


def _validation(**evaluation: Any) -> Validation:
    config = _config(**evaluation)
    return Validation(config, build_task(config.task))


def _summary(version: int, num_scored: int = 4, **values: float) -> ValidationSummary:
    return ValidationSummary(PolicyVersion(1, version, "a"), 4, num_scored, 10, values)


def test_what_is_due() -> None:
    validation = _validation()
    assert [version for version in range(9) if validation.due(version)] == [0, 3, 6, 7]


def test_requests_are_fixed_and_meet_no_training_group() -> None:
    config = _config()
    requests = _validation().requests()
    held_out = build_task(config.task).held_out_prompts()
    assert [request.group_id for request in requests] == [-1, -2]
    assert [request.prompt for request in requests] == held_out[-2:]
    assert requests[1].seeds == tuple(sample_seed(5, "validation-1", index) for index in range(4))
    assert requests == _validation().requests()
    assert (requests[0].max_completion_tokens, requests[0].temperature) == (6, 1.0)


def test_a_task_without_the_part_is_refused() -> None:
    task = build_task(_config().task)
    with pytest.raises(DataError, match=r"evaluation\.prompts=held_out"):
        validation_prompts(TrainingEvaluationSpec(prompts="validation"), task)


def test_a_summary_is_the_mean_over_subsets_of_the_scored() -> None:
    """Against an enumeration of all subsets; one of five completions has no score."""
    group = random_group(4, [1, NAN, 0.5, 1, 1], classes=[7, -1, -1, 8, 7], lengths=[2, 3, 4, 5, 6])
    summary = summarise(group, TrainingEvaluationSpec(num_samples=5))
    rewards, classes = np.array([1, 0.5, 1, 1]), np.array([7, -1, 8, 7])
    for k in (1, 2, 4):
        subsets = [list(subset) for subset in combinations(range(4), k)]
        passed = np.mean([(rewards[s] == 1).any() for s in subsets])
        distinct = np.mean([len({c for c in classes[s] if c >= 0}) for s in subsets])
        assert summary.values[f"pass_at_{k}"] == pytest.approx(passed)
        assert summary.values[f"distinct_correct_at_{k}"] == pytest.approx(distinct)
        assert summary.values[f"best_at_{k}"] == pytest.approx(np.mean([rewards[s].max() for s in subsets]))
    assert "pass_at_8" not in summary.values
    assert summary.values["reward_mean"] == pytest.approx(3.5 / 4)
    differ = [
        classes[a] != classes[b] and classes[a] >= 0 <= classes[b] for a, b in combinations(range(4), 2)
    ]
    assert summary.values["diversity"] == pytest.approx(np.mean(differ))
    assert summary.values["completion_length_mean"] == 4
    assert summary.values["truncated_share"] == pytest.approx(2 / 5)
    assert (summary.num_samples, summary.num_scored, summary.num_tokens) == (5, 4, 20)


def test_a_group_without_any_score_has_no_values_of_rewards() -> None:
    summary = summarise(random_group(4, [NAN, NAN]), TrainingEvaluationSpec(num_samples=2))
    assert set(summary.values) == {"completion_length_mean", "truncated_share"}
    assert summary.num_scored == 0


def test_a_result_is_there_once_every_group_is_in_whatever_the_order() -> None:
    validation = _validation(num_prompts=3)
    validation.add(3, 2, _summary(3, pass_at_1=0.2))
    validation.add(6, 0, _summary(6, pass_at_1=0.7))
    validation.add(3, 0, _summary(3, pass_at_1=0.3))
    assert validation.result(3) is None
    assert (validation.missing(3), validation.missing(6), validation.missing(0)) == ([1], [1, 2], [0, 1, 2])
    validation.add(3, 1, _summary(3, num_scored=3, pass_at_1=0.1))
    result = validation.result(3)
    assert result is not None
    assert result.metrics == {
        "pass_at_1": pytest.approx(0.2),
        "num_prompts": 3,
        "unscored": 1,
        "unscored_groups": 0,
        "tokens_generated": 30,
    }
    validation.add(3, 0, _summary(3, pass_at_1=1.0))  # a group that comes twice
    assert validation.result(3) is result
    assert validation.missing(3) == []


def test_lost_groups_are_counted_and_left_out() -> None:
    """Lost; of another version; unscored: none of them is a zero."""
    validation = _validation(num_prompts=4)
    validation.add(3, 0, None)
    validation.add(3, 1, _summary(4, pass_at_1=0.9))
    validation.add(3, 2, _summary(3, num_scored=0, completion_length_mean=2.0))
    validation.add(3, 3, _summary(3, pass_at_1=0.25, completion_length_mean=4.0))
    result = validation.result(3)
    assert result is not None
    assert result.metrics["pass_at_1"] == 0.25
    assert result.metrics["completion_length_mean"] == 3
    assert (result.metrics["unscored_groups"], result.metrics["unscored"]) == (3, 4)


def test_a_new_attempt_begins_with_nothing() -> None:
    validation = _validation(num_prompts=1)
    validation.add(0, 0, _summary(0, pass_at_1=0.5))
    assert validation.result(0) is not None
    validation.restart()
    assert validation.result(0) is None
    validation.add(0, 0, replace(_summary(0, pass_at_1=0.75), policy=PolicyVersion(2, 0, "b")))
    assert validation.result(0).metrics["pass_at_1"] == 0.75  # type: ignore[union-attr]


def test_a_metric_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="best_metric='pass_at_8' is not measured with num_samples=4"):
        TrainingEvaluationSpec(num_samples=4, best_metric="pass_at_8")
