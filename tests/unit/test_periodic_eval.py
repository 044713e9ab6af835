"""Validation while training: what is asked, what a group says, when a version's result is there."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.config.loader import build_config
from polyray.config.periodic_eval import DynamicsSpec, EvalPlan, EvalSchedule, TrainingEvaluationSpec
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError, DataError
from polyray.metrics import self_bleu
from polyray.periodic_eval import BestVersion, EarlyStopping, Validation, ValidationSummary, summarise
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.tasks.prompts import validation_prompts
from polyray.types import PolicyVersion, Prompt, ScoredGroup
from tests.unit.tiny_policy import random_group, train_config

NAN = float("nan")


def _config(**evaluation: Any) -> TrainConfig:
    values = {"every": 3, "num_prompts": 2, "num_samples": 4, **evaluation}
    return train_config(evaluation=values, learner={"steps": 7})


def _plan(**changes: Any) -> EvalPlan:
    plan = EvalPlan(EvalSchedule(every=3, last=7), prompts="auto", num_prompts=2, num_samples=4)
    return replace(plan, **changes)


def _validation(**evaluation: Any) -> Validation:
    config = _config(**evaluation)
    assert config.eval_plan is not None
    return Validation(config, config.eval_plan, build_task(config.task))


def _summary(version: int, num_scored: int = 4, **values: float) -> ValidationSummary:
    return ValidationSummary(PolicyVersion(1, version, "a"), 4, num_scored, 10, values)


def test_requests_are_fixed_and_meet_no_training_group() -> None:
    config = _config()
    requests = _validation().requests()
    asked = build_task(config.task).validation_prompts()
    assert [request.group_id for request in requests] == [-1, -2]
    assert [request.prompt for request in requests] == asked[:2]
    assert requests[1].seeds == tuple(sample_seed(5, "validation-1", index) for index in range(4))
    assert requests == _validation().requests()
    assert (requests[0].max_completion_tokens, requests[0].temperature) == (6, 1.0)


def test_held_out_prompts_are_used_only_by_dynamics_that_name_them() -> None:
    task = build_task(_config().task)
    asked = validation_prompts(_plan(prompts="held_out"), task, 0)
    assert asked == task.held_out_prompts()[-2:]
    with pytest.raises(ConfigError, match=r"evaluation\.prompts"):
        build_config(TrainConfig, {"name": "t", "evaluation": {"prompts": "held_out"}})


def test_dynamics_of_a_task_without_validation_prompts_use_training_prompts() -> None:
    class Bare:
        name = "bare"
        validation_prompts = staticmethod(lambda limit=None: [])
        held_out_prompts = staticmethod(lambda limit=None: [Prompt("test", "x")])
        training_prompt = staticmethod(lambda index, seed: Prompt(f"{index}-{seed}", "x"))

    bare: Any = Bare()
    asked = validation_prompts(_plan(from_training=True), bare, 5)
    assert [prompt.prompt_id for prompt in asked] == ["0-5", "1-5"]
    with pytest.raises(DataError, match="validation"):
        validation_prompts(_plan(), bare, 5)


def test_a_summary_is_the_mean_over_subsets_of_the_scored() -> None:
    """Against an enumeration of all subsets; one of five completions has no score."""
    group = random_group(4, [1, NAN, 0.5, 1, 1], classes=[7, -1, -1, 8, 7], lengths=[2, 3, 4, 5, 6])
    summary = summarise(group, _plan(num_samples=5))
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
    assert summary.values["distinct_classes"] == 2
    assert summary.values["completion_length_mean"] == 4
    assert summary.values["truncated_share"] == pytest.approx(2 / 5)
    assert (summary.num_samples, summary.num_scored, summary.num_tokens) == (5, 4, 20)


def test_a_group_without_any_score_has_no_values_of_rewards() -> None:
    summary = summarise(random_group(4, [NAN, NAN]), _plan(num_samples=2))
    of_texts = {"distinct_1", "distinct_2", "distinct_3", "self_bleu", "sequence_entropy", "token_entropy"}
    assert set(summary.values) - of_texts == {"completion_length_mean", "truncated_share"}
    assert summary.num_scored == 0


def test_words_and_likelihoods_cover_every_completion() -> None:
    group = random_group(4, [1, NAN, 0], lengths=[2, 3, 4]).group
    texts = ["a b a", "a c", "a b a"]
    completions = tuple(replace(each, text=text) for each, text in zip(group.completions, texts, strict=True))
    scored = ScoredGroup(
        replace(group, completions=completions), np.array([1, NAN, 0]), np.array([3, -1, -1])
    )
    values = summarise(scored, _plan()).values
    assert values["distinct_1"] == pytest.approx(3 / 8)
    assert values["distinct_2"] == pytest.approx(3 / 5)
    assert values["distinct_3"] == pytest.approx(1 / 2)
    assert values["self_bleu"] == pytest.approx(self_bleu(texts))
    surprise = [-each.rollout_logprobs.astype(np.float64).sum() for each in completions]
    assert values["sequence_entropy"] == pytest.approx(np.mean(surprise))
    assert values["token_entropy"] == pytest.approx(np.sum(surprise) / 9)
    assert "semantic_diversity" not in values


def test_semantic_diversity_is_measured_with_an_embedder() -> None:
    distances = np.array([[0, 0.2, 0.9], [0.2, 0, 0.4], [0.9, 0.4, 0]])
    group = replace(random_group(4, [1, 0.5, NAN]), distances_GG=distances)
    assert summarise(group, _plan(semantic_distances=True)).values["semantic_diversity"] == 0.2
    assert "semantic_diversity" not in summarise(group, _plan()).values


@pytest.mark.parametrize(
    ("steps", "num_prompts", "every", "count"),
    [(60, 16, 20, 4), (200, 16, 14, 16), (60, 64, 60, 2), (4, 16, 4, 2)],
)
def test_dynamics_cost_a_share_of_the_samples(steps: int, num_prompts: int, every: int, count: int) -> None:
    config = train_config(
        learner={"steps": steps},
        rollout={"prompts_per_step": 16, "group_size": 16},
        dynamics={"num_prompts": num_prompts},
    )
    assert config.eval_plan is not None
    assert (config.eval_plan.schedule.every, config.eval_plan.schedule.count) == (every, count)
    asked = count * num_prompts * 8
    assert count == 2 or asked <= 0.04 * steps * 256


def test_evaluation_rounds_equal_dynamics_plan() -> None:
    config = train_config(
        evaluation={"every": 2, "num_prompts": 3}, dynamics={"every": 5, "encoder": "packaged"}
    )
    assert config.eval_plan == EvalPlan(EvalSchedule(2, 6), "validation", 3, 8, encoder="packaged")
    assert train_config().eval_plan is None
    embedded = train_config(
        dynamics={"every": 5}, diversity={"source": "embedding"}, algorithm={"type": "grpo"}
    )
    assert embedded.eval_plan == EvalPlan(
        EvalSchedule(5, 6), "auto", 16, 8, from_training=True, semantic_distances=True
    )


@pytest.mark.parametrize(
    ("task", "encoder", "used"),
    [
        ({"type": "hidden_trap_grid"}, "auto", None),
        ({"type": "code"}, "auto", None),
        ({"type": "headlines"}, "auto", "packaged"),
        ({"type": "creative_writing"}, "auto", "packaged"),
        ({"type": "headlines"}, None, None),
        ({"type": "hidden_trap_grid"}, "org/encoder", "org/encoder"),
    ],
)
def test_meaning_is_measured_where_answers_are_prose(task: dict[str, Any], encoder: Any, used: Any) -> None:
    spec = train_config(task=task).task
    assert DynamicsSpec(encoder=encoder).encoder_for(spec) == used


def test_result_is_complete_after_all_groups_in_any_order() -> None:
    validation = _validation(num_prompts=3)
    validation.add(3, 2, _summary(3, pass_at_1=0.2))
    validation.add(6, 0, _summary(6, pass_at_1=0.7))
    validation.add(3, 0, _summary(3, pass_at_1=0.3))
    assert validation.result(3) is None
    validation.add(3, 1, _summary(3, num_scored=3, pass_at_1=0.1))
    result = validation.result(3)
    assert result is not None
    assert result == {
        "pass_at_1": pytest.approx(0.2),
        "num_prompts": 3,
        "unscored": 1,
        "unscored_groups": 0,
        "tokens_generated": 30,
    }
    validation.add(3, 0, _summary(3, pass_at_1=1.0))  # a group that comes twice
    assert validation.result(3) is result


def test_lost_groups_are_counted_and_left_out() -> None:
    """Lost; of another version; unscored: none of them is a zero."""
    validation = _validation(num_prompts=4)
    validation.add(3, 0, None)
    validation.add(3, 1, _summary(4, pass_at_1=0.9))
    validation.add(3, 2, _summary(3, num_scored=0, completion_length_mean=2.0))
    validation.add(3, 3, _summary(3, pass_at_1=0.25, completion_length_mean=4.0))
    result = validation.result(3)
    assert result is not None
    assert result["pass_at_1"] == 0.25
    assert result["completion_length_mean"] == 3
    assert (result["unscored_groups"], result["unscored"]) == (3, 4)


def test_a_new_attempt_begins_with_nothing() -> None:
    validation = _validation(num_prompts=1)
    validation.add(0, 0, _summary(0, pass_at_1=0.5))
    assert validation.result(0) is not None
    validation.restart()
    assert validation.result(0) is None
    validation.add(0, 0, replace(_summary(0, pass_at_1=0.75), policy=PolicyVersion(2, 0, "b")))
    result = validation.result(0)
    assert result is not None and result["pass_at_1"] == 0.75


def test_a_metric_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"best_metric='pass_at_8'.*num_samples=4"):
        TrainingEvaluationSpec(num_samples=4, best_metric="pass_at_8")


@pytest.mark.parametrize(
    ("every", "due", "count"),
    [(3, [0, 3, 6, 7], 4), (7, [0, 7], 2), (9, [0, 7], 2), (1, [*range(8)], 8), (None, [], 0)],
)
def test_schedule_is_due_at_multiples_and_at_the_last_step(
    every: int | None, due: list[int], count: int
) -> None:
    schedule = EvalSchedule(every, last=7)
    assert [step for step in range(8) if schedule.due(step)] == due
    assert schedule.count == count


@pytest.mark.parametrize(
    ("mode", "min_delta", "best", "failures"),
    [
        ("max", 0.0, BestVersion(3, 0.32), 1),
        ("max", 0.05, BestVersion(1, 0.3), 2),
        ("min", 0.0, BestVersion(4, 0.1), 0),
        ("min", 0.5, BestVersion(0, 0.2), 3),
    ],
)
def test_early_stopping_keeps_the_best_and_counts_failures(
    mode: Literal["max", "min"], min_delta: float, best: BestVersion, failures: int
) -> None:
    """A result without a value neither improves nor fails; history rebuilds the same state."""
    stopping = EarlyStopping(mode, min_delta, 2, [(0, 0.2), (1, 0.3), (2, None), (3, 0.32), (4, 0.1)])
    assert (stopping.best, stopping.failures, stopping.is_over) == (best, failures, failures >= 2)
    assert stopping.best_version == best.version
    again = EarlyStopping(mode, min_delta, None, stopping.history)
    assert (again.best, again.failures, again.is_over) == (best, failures, False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([None, 0.0, 0.1, 0.2, 0.3]), max_size=12), st.sampled_from([0.0, 0.1]))
def test_early_stopping_equals_its_definition(values: list[float | None], min_delta: float) -> None:
    known = [(version, value) for version, value in enumerate(values) if value is not None]
    improved: list[tuple[int, float]] = []
    for version, value in known:
        if not improved or value - improved[-1][1] > min_delta:
            improved.append((version, value))
    stopping = EarlyStopping("max", min_delta, 3, enumerate(values))
    assert stopping.best == (BestVersion(*improved[-1]) if improved else None)
    assert stopping.failures == sum(version > stopping.best_version for version, _ in known)
    assert stopping.best_version == (improved[-1][0] if improved else 0)
