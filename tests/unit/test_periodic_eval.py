"""Evaluation while training: schedule, prompts, summaries of groups, results, early stopping."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.config.periodic_eval import DynamicsSpec, EvalPlan, EvalSchedule, TrainingEvaluationSpec
from polyray.errors import DataError
from polyray.metrics import self_bleu
from polyray.periodic_eval import BestVersion, EarlyStopping, Validation, ValidationSummary, summarise
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.tasks.prompts import validation_prompts
from polyray.types import PolicyVersion, Prompt, ScoredGroup
from tests.unit.tiny_policy import random_group, train_config

NAN = float("nan")


def plan_of(**changes: Any) -> EvalPlan:
    plan = EvalPlan(EvalSchedule(every=3, last=7), prompts="auto", num_prompts=2, num_samples=4)
    return replace(plan, **changes)


def validation_of(num_prompts: int) -> Validation:
    config = train_config(evaluation={"every": 3, "num_prompts": num_prompts, "num_samples": 4})
    assert config.eval_plan is not None
    return Validation(config, config.eval_plan, build_task(config.task))


def summary(version: int, num_scored: int = 4, **values: float) -> ValidationSummary:
    return ValidationSummary(PolicyVersion(1, version, "a"), 4, num_scored, 10, values)


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


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([None, 0.0, 0.1, 0.2, 0.3]), max_size=12),
    st.sampled_from([0.0, 0.15]),
    st.sampled_from(["max", "min"]),
)
def test_early_stopping_equals_its_definition(
    values: list[float | None], min_delta: float, mode: Literal["max", "min"]
) -> None:
    """A result without a value neither improves nor fails."""
    known = [(version, value) for version, value in enumerate(values) if value is not None]
    improved: list[tuple[int, float]] = []
    for version, value in known:
        gain = (value - improved[-1][1]) * (1 if mode == "max" else -1) if improved else np.inf
        if gain > min_delta:
            improved.append((version, value))
    best = BestVersion(*improved[-1]) if improved else None
    failures = sum(version > improved[-1][0] for version, _ in known) if improved else 0
    stopping = EarlyStopping(mode, min_delta, 2)
    found = [stopping.observe(version, value) for version, value in enumerate(values)]
    assert [version for version, is_best in enumerate(found) if is_best] == [
        version for version, _ in improved
    ]
    for same in (stopping, EarlyStopping(mode, min_delta, 2, stopping.history)):
        assert (same.best, same.failures, same.is_over) == (best, failures, failures >= 2)
        assert same.best_version == (0 if best is None else best.version)
    assert not EarlyStopping(mode, min_delta, None, stopping.history).is_over


def test_early_stopping_never_prefers_a_diverged_model() -> None:
    stopping = EarlyStopping("min", 0.0, 3)
    found = [
        stopping.observe(version, value) for version, value in enumerate([1.0, 0.8, np.nan, np.inf, np.nan])
    ]
    assert found == [True, True, False, False, False]
    assert stopping.best == BestVersion(1, 0.8) and stopping.is_over
    late = EarlyStopping("max", 0.0, 3)
    assert [late.observe(version, value) for version, value in enumerate([np.nan, 0.1, np.nan])] == [
        True,
        True,
        False,
    ]
    assert late.best == BestVersion(1, 0.1)


def test_requests_are_fixed_and_meet_no_training_group() -> None:
    requests = validation_of(2).requests()
    config = train_config()
    assert [request.group_id for request in requests] == [-1, -2]
    assert [request.prompt for request in requests] == build_task(config.task).validation_prompts()[:2]
    assert requests[1].seeds == tuple(sample_seed(5, "validation-1", index) for index in range(4))
    assert requests == validation_of(2).requests()
    assert (requests[0].max_completion_tokens, requests[0].temperature) == (6, 1.0)


def test_prompts_are_held_out_or_of_training_only_if_the_plan_says_so() -> None:
    class Bare:
        name = "bare"
        validation_prompts = staticmethod(lambda limit=None: [])
        held_out_prompts = staticmethod(lambda limit=None: [Prompt(name, "x") for name in "abc"])
        training_prompt = staticmethod(lambda index, seed: Prompt(f"{index}-{seed}", "x"))

    def asked(**changes: Any) -> list[str]:
        bare: Any = Bare()
        return [prompt.prompt_id for prompt in validation_prompts(plan_of(**changes), bare, 5)]

    assert asked(prompts="held_out") == ["b", "c"]
    assert asked(from_training=True) == ["0-5", "1-5"]
    with pytest.raises(DataError, match="validation"):
        asked()


def test_summary_is_the_mean_over_subsets_of_the_scored() -> None:
    """Against an enumeration of all subsets; one of five completions has no score."""
    group = random_group(4, [1, NAN, 0.5, 1, 1], classes=[7, -1, -1, 8, 7], lengths=[2, 3, 4, 5, 6])
    found = summarise(group, plan_of(num_samples=5))
    rewards, classes = np.array([1, 0.5, 1, 1]), np.array([7, -1, 8, 7])
    for k in (1, 2, 4):
        subsets = [list(subset) for subset in combinations(range(4), k)]
        passed = np.mean([(rewards[s] == 1).any() for s in subsets])
        distinct = np.mean([len({c for c in classes[s] if c >= 0}) for s in subsets])
        assert found.values[f"pass_at_{k}"] == pytest.approx(passed)
        assert found.values[f"distinct_correct_at_{k}"] == pytest.approx(distinct)
        assert found.values[f"best_at_{k}"] == pytest.approx(np.mean([rewards[s].max() for s in subsets]))
    assert "pass_at_8" not in found.values
    pairs = combinations(range(4), 2)
    differ = [classes[a] != classes[b] and classes[a] >= 0 <= classes[b] for a, b in pairs]
    expected = {
        "reward_mean": 3.5 / 4,
        "diversity": np.mean(differ),
        "distinct_classes": 2,
        "completion_length_mean": 4,
        "truncated_share": 2 / 5,
    }
    assert {name: found.values[name] for name in expected} == pytest.approx(expected)
    assert (found.num_samples, found.num_scored, found.num_tokens) == (5, 4, 20)


def test_words_and_likelihoods_cover_every_completion_also_without_scores() -> None:
    group = random_group(4, [NAN] * 3, lengths=[2, 3, 4]).group
    texts = ["a b a", "a c", "a b a"]
    completions = tuple(replace(each, text=text) for each, text in zip(group.completions, texts, strict=True))
    scored = ScoredGroup(replace(group, completions=completions), np.full(3, NAN), np.full(3, -1))
    found = summarise(scored, plan_of())
    surprise = [-each.rollout_logprobs.astype(np.float64).sum() for each in completions]
    assert found.values == pytest.approx(
        {
            "distinct_1": 3 / 8,
            "distinct_2": 3 / 5,
            "distinct_3": 1 / 2,
            "self_bleu": self_bleu(texts),
            "sequence_entropy": np.mean(surprise),
            "token_entropy": np.sum(surprise) / 9,
            "completion_length_mean": 3,
            "truncated_share": np.mean([item.finish_reason == "length" for item in completions]),
        }
    )
    assert found.num_scored == 0


def test_semantic_diversity_is_of_scored_completions_if_measured() -> None:
    distances = np.array([[0, 0.2, 0.9], [0.2, 0, 0.4], [0.9, 0.4, 0]])
    group = replace(random_group(4, [1, 0.5, NAN]), distances_GG=distances)
    assert summarise(group, plan_of(semantic_distances=True)).values["semantic_diversity"] == 0.2
    assert "semantic_diversity" not in summarise(group, plan_of()).values


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
    schedule = config.eval_plan.schedule
    assert (schedule.every, schedule.count) == (every, count)
    assert count == 2 or count * num_prompts * 8 <= 0.04 * steps * 256


def test_plan_is_of_evaluation_with_the_encoder_of_dynamics() -> None:
    evaluation, dynamics = {"every": 2, "num_prompts": 3}, {"every": 5, "encoder": "packaged"}
    both = train_config(evaluation=evaluation, dynamics=dynamics)
    assert both.eval_plan == EvalPlan(EvalSchedule(2, 6), "validation", 3, 8, encoder="packaged")
    embedded = train_config(dynamics={"every": 5}, diversity={"source": "embedding"})
    plan = EvalPlan(EvalSchedule(5, 6), "auto", 16, 8, from_training=True, semantic_distances=True)
    assert embedded.eval_plan == plan
    assert train_config().eval_plan is None


@pytest.mark.parametrize(
    ("task", "encoder", "used"),
    [
        ("hidden_trap_grid", "auto", None),
        ("code", "auto", None),
        ("headlines", "auto", "packaged"),
        ("headlines", None, None),
        ("hidden_trap_grid", "org/encoder", "org/encoder"),
    ],
)
def test_meaning_is_measured_where_answers_are_prose(task: str, encoder: Any, used: str | None) -> None:
    assert DynamicsSpec(encoder=encoder).encoder_for(train_config(task={"type": task}).task) == used


def test_metric_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"best_metric='pass_at_8'.*num_samples=4"):
        TrainingEvaluationSpec(num_samples=4, best_metric="pass_at_8")


def test_result_is_complete_after_all_groups_in_any_order() -> None:
    """Lost groups, those of another version and unscored ones are counted; none of them is a zero."""
    validation = validation_of(5)
    validation.add(6, 0, summary(6, pass_at_1=0.7))
    validation.add(3, 4, summary(3, num_scored=3, pass_at_1=0.5, completion_length_mean=3.0))
    validation.add(3, 0, None)
    validation.add(3, 1, summary(4, pass_at_1=0.9))
    validation.add(3, 2, summary(3, num_scored=0, completion_length_mean=2.0))
    assert validation.result(3) is None
    validation.add(3, 3, summary(3, pass_at_1=0.25, completion_length_mean=4.0))
    result = validation.result(3)
    assert result == {
        "pass_at_1": 0.375,
        "completion_length_mean": 3,
        "num_prompts": 5,
        "unscored": 5,
        "unscored_groups": 3,
        "tokens_generated": 30,
    }
    validation.add(3, 0, summary(3, pass_at_1=1.0))  # a group that comes twice
    assert validation.result(3) is result
    assert validation.result(6) is None


def test_restart_makes_results_and_groups_of_the_old_attempt_void() -> None:
    validation = validation_of(1)
    validation.add(0, 0, summary(0, pass_at_1=0.5))
    validation.restart()
    assert validation.result(0) is None
    validation.add(0, 0, replace(summary(0, pass_at_1=0.75), policy=PolicyVersion(2, 0, "b")))
    result = validation.result(0)
    assert result is not None and result["pass_at_1"] == 0.75
