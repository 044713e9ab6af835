"""One policy update against the loss written out token by token, and what must not change it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from polyray.config.run import TrainConfig
from polyray.learner import old_logprobs
from polyray.learner import step as step_module
from polyray.models.lora import POLICY, REFERENCE, add_reference
from polyray.types import ScoredGroup
from tests.unit.learner.step_fixtures import (
    NAN,
    as_batch,
    assert_equal_gradients,
    build_learner,
    gradients,
    literal_loss,
    mixed_groups,
    token_logprobs,
    with_ratios,
)
from tests.unit.tiny_policy import NUM_FACTORS, build_policy, random_group, train_config


def _config(learner: dict[str, Any] | None = None, temperature: float = 1.0, **algorithm: Any) -> TrainConfig:
    return train_config(
        rollout={"temperature": temperature},
        algorithm={"type": "grpo", **algorithm},
        learner={"max_grad_norm": 1e9, **(learner or {})},
    )


def _polychromic(diversity_weight: float) -> TrainConfig:
    algorithm = {
        "type": "polychromic",
        "objective": "pairwise",
        "diversity_weight": diversity_weight,
        "set_size": 2,
    }
    return train_config(algorithm=algorithm, learner={"max_grad_norm": 1e9})


def _with_distances(groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    distances = np.abs(np.subtract.outer([0.0, 0.2, 0.9, 0.5], [0.0, 0.2, 0.9, 0.5]))
    return [replace(group, distances_GG=distances) for group in groups]


@pytest.mark.parametrize("normalisation", ["constant", "token", "sequence", "sum"])
@pytest.mark.parametrize(("kl_coefficient", "kl_estimator"), [(0.0, "k2"), (0.3, "k2"), (0.3, "k3")])
def test_equals_the_literal_loss(normalisation: str, kl_coefficient: float, kl_estimator: str) -> None:
    config = _config(
        normalisation=normalisation, kl_coefficient=kl_coefficient, kl_estimator=kl_estimator, clip_high=0.28
    )
    groups = mixed_groups()
    expected = literal_loss(config, groups)
    assert (expected.masked_sequences, expected.truncated_tokens) == (2, 1)
    assert expected.clipped_tokens == 5
    actual, metrics = gradients(config, groups)
    assert_equal_gradients(actual, expected.gradients)
    assert metrics["loss"] == pytest.approx(expected.loss, abs=1e-6)
    norm = torch.cat([gradient.flatten() for gradient in expected.gradients]).norm()
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["masked_sequence_share"] == pytest.approx(2 / 11)


def test_equals_the_literal_loss_at_another_temperature_cap_and_band() -> None:
    config = _config(
        temperature=0.7, kl_coefficient=0.1, importance_cap=1.2, sequence_mask_band=0.19, clip_high=0.1
    )
    groups = mixed_groups(temperature=0.7)
    expected = literal_loss(config, groups)
    assert expected.masked_sequences >= 2
    actual, _ = gradients(config, groups)
    assert_equal_gradients(actual, expected.gradients)


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.3])
def test_micro_batches_do_not_change_the_update(kl_coefficient: float) -> None:
    groups = mixed_groups()
    whole, expected = gradients(_config(kl_coefficient=kl_coefficient), groups)
    for size in ({"micro_batch_rows": 1}, {"micro_batch_rows": 3}, {"micro_batch_tokens": 12}):
        parts, metrics = gradients(_config(size, kl_coefficient=kl_coefficient), groups)
        assert_equal_gradients(parts, whole)
        assert metrics.keys() == expected.keys()
        for key, value in expected.items():
            assert metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_checkpointed_layers_run_twice_and_give_the_same_update(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [0]
    forward = Qwen3MLP.forward

    def counted(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        runs[0] += 1
        return forward(self, hidden)

    monkeypatch.setattr(Qwen3MLP, "forward", counted)
    groups, found = mixed_groups(), []
    for checkpointing in (False, True):
        runs[0] = 0
        learner = {"gradient_checkpointing": checkpointing}
        found.append((*gradients(_config(learner, kl_coefficient=0.3), groups), runs[0]))
    assert_equal_gradients(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]
    # Reference and policy, and the policy's one layer again; the reference has no backward pass.
    assert (found[0][2], found[1][2]) == (2, 3)


def test_the_learner_runs_on_a_base_in_bfloat16() -> None:
    exact, rounded = build_policy(), build_policy()
    rounded.get_base_model().to(torch.bfloat16)  # type: ignore[arg-type, operator]
    for name, parameter in rounded.named_parameters():
        if ".lora_" in name:
            parameter.data = exact.get_parameter(name).data.clone()
    config, groups = _config(kl_coefficient=0.1, sequence_mask_band=50.0), mixed_groups()
    metrics, gradient = [], []
    for model in (exact, rounded):
        learner = build_learner(config, model)
        metrics.append(learner.step(as_batch(groups)))
        gradient.append(torch.cat([parameter.grad.flatten() for parameter in learner.parameters]))  # type: ignore[union-attr]
    assert gradient[1].dtype == torch.float32
    assert all(np.isfinite(value) for value in metrics[1].values() if isinstance(value, float))
    assert metrics[1]["entropy"] == pytest.approx(metrics[0]["entropy"], rel=0.01)
    assert metrics[1]["logprob_difference_mean"] == pytest.approx(
        metrics[0]["logprob_difference_mean"], abs=0.02
    )
    assert float(torch.nn.functional.cosine_similarity(*gradient, dim=0)) > 0.99


def test_rows_without_advantage_get_no_backward_pass_but_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {True: 0, False: 0}
    original = step_module.completion_logprobs

    def counted(model: Any, rows: Any, *options: Any, **more: Any) -> Any:
        seen[torch.is_grad_enabled()] += len(rows.completion_lengths_B)
        return original(model, rows, *options, **more)

    monkeypatch.setattr(step_module, "completion_logprobs", counted)
    monkeypatch.setattr(old_logprobs, "completion_logprobs", counted)
    config, groups = _config(), mixed_groups()
    actual, metrics = gradients(config, groups)
    # 4 + 2 rows have an advantage (0.5 of [0.5, 1, 0] is the mean); 5 are measured; the reference runs on the
    # four of the first group.
    assert seen == {True: 6, False: 5 + 4}
    assert_equal_gradients(actual, literal_loss(config, groups).gradients)
    with_kl = gradients(_config(kl_coefficient=1e-12), groups)
    assert_equal_gradients(with_kl[0], actual)
    for key in ("entropy", "kl_rollout", "ess", "logprob_difference_max", "masked_sequence_share"):
        assert with_kl[1][key] == pytest.approx(metrics[key], rel=1e-5), key


def test_a_batch_without_any_signal_changes_nothing() -> None:
    learner = build_learner(_config())
    before = [parameter.detach().clone() for parameter in learner.parameters]
    metrics = learner.step(as_batch([random_group(0, [1, 1, 1]), random_group(1, [0, 0, 0])]))
    assert all(torch.equal(old, new) for old, new in zip(before, learner.parameters, strict=True))
    assert (metrics["grad_norm"], metrics["loss"], metrics["zero_advantage_share"]) == (0, 0, 1)


def test_a_batch_that_is_masked_whole_changes_nothing() -> None:
    group = with_ratios(random_group(0, [1, 0], lengths=[2, 3]), {0: (2.0, 2.0), 1: (-2.0, -2.0, -2.0)})
    for normalisation in ("constant", "token", "sequence"):
        actual, metrics = gradients(_config(normalisation=normalisation), [group])
        assert all(not gradient.any() for gradient in actual)
        assert (metrics["loss"], metrics["masked_sequence_share"]) == (0, 1)


@pytest.mark.parametrize("broken", [NAN, -np.inf, 1e4])
def test_a_broken_rollout_logprob_costs_its_sequence_and_nothing_else(broken: float) -> None:
    groups = mixed_groups()
    logprobs = groups[0].group.completions[3].rollout_logprobs.copy()
    logprobs[2] = broken
    completions = list(groups[0].group.completions)
    completions[3] = replace(completions[3], rollout_logprobs=logprobs)
    groups[0] = replace(groups[0], group=replace(groups[0].group, completions=tuple(completions)))
    config = _config(kl_coefficient=0.1)
    actual, metrics = gradients(config, groups)
    assert metrics["masked_sequence_share"] == pytest.approx(3 / 11)
    assert all(np.isfinite(value) for value in metrics.values() if isinstance(value, float))
    completions[3] = replace(
        completions[3], rollout_logprobs=np.full(6, 9.0, np.float32)
    )  # masked by the band
    groups[0] = replace(groups[0], group=replace(groups[0].group, completions=tuple(completions)))
    assert_equal_gradients(actual, literal_loss(config, groups).gradients)


def test_gradients_are_clipped_to_the_norm_and_the_norm_is_that_before() -> None:
    free, metrics = gradients(_config(), mixed_groups())
    limit = float(metrics["grad_norm"]) / 4  # type: ignore[arg-type]
    clipped, clipped_metrics = gradients(_config({"max_grad_norm": limit}), mixed_groups())
    assert clipped_metrics["grad_norm"] == metrics["grad_norm"]
    for one, other in zip(clipped, free, strict=True):
        torch.testing.assert_close(one, other / 4, rtol=1e-4, atol=1e-9)


def test_the_first_adamw_step_by_hand() -> None:
    config = _config({"learning_rate": 0.01, "warmup_steps": 2})
    learner = build_learner(config)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    metrics = learner.step(as_batch(mixed_groups()))
    rate = 0.01 / 3  # the first of two warm-up steps
    assert metrics["lr"] == pytest.approx(rate)
    assert learner.scheduler.get_last_lr() == [pytest.approx(2 * rate)]
    for old, parameter in zip(before, learner.parameters, strict=True):
        gradient = parameter.grad
        assert gradient is not None
        expected = old - rate * gradient / (gradient.abs() + 1e-8)  # bias-corrected moments are g and g^2
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_only_the_policy_adapter_moves() -> None:
    learner = build_learner(_config(kl_coefficient=0.2))
    frozen = {
        name: parameter.detach().clone()
        for name, parameter in learner.model.named_parameters()
        if not parameter.requires_grad
    }
    assert any(".reference." in name for name in frozen)
    for _ in range(2):
        learner.step(as_batch(mixed_groups()))
    after = dict(learner.model.named_parameters())
    assert all(torch.equal(after[name], old) for name, old in frozen.items())
    trained = {name for name, parameter in after.items() if parameter.requires_grad}
    assert len(trained) == NUM_FACTORS
    assert not trained & set(frozen)


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.5])
def test_kl_to_the_warm_start_is_zero_at_step_zero_and_not_after(kl_coefficient: float) -> None:
    config = _config({"learning_rate": 0.05, "warmup_steps": 0}, kl_coefficient=kl_coefficient)
    warm_start = build_policy(reference=False)  # an adapter that was trained before, as SFT leaves it
    add_reference(warm_start)
    learner = build_learner(config, warm_start)
    first = learner.step(as_batch(mixed_groups()))
    second = learner.step(as_batch(mixed_groups()))
    assert first["kl_reference"] == pytest.approx(0, abs=1e-11)
    assert float(second["kl_reference"]) > 1e-4  # type: ignore[arg-type]


def test_the_watched_kl_is_k3_over_one_group_or_all() -> None:
    groups = mixed_groups()
    model = copy.deepcopy(build_policy()).double()

    def k3(chosen: list[tuple[int, int]]) -> float:
        values: list[float] = []
        for group, index in chosen:
            prompt = groups[group].group.prompt_token_ids
            tokens = groups[group].group.completions[index].token_ids
            with torch.no_grad():
                model.set_adapter(REFERENCE)
                reference = token_logprobs(model, prompt, tokens, 1.0)
                model.set_adapter(POLICY)
                log_ratio = token_logprobs(model, prompt, tokens, 1.0) - reference
            values += ((-log_ratio).exp() - 1 + log_ratio).tolist()
        return sum(values) / len(values)

    scored = [(g, i) for g in range(3) for i in range(4) if (g, i) != (1, 1)]
    assert k3(scored) > 1e-3
    # The metric is taken after the backward pass and before the optimiser's step.
    watched = gradients(_config(), groups)[1]["kl_reference"]
    assert watched == pytest.approx(k3([(0, i) for i in range(4)]), rel=1e-3)
    everything = gradients(_config(kl_coefficient=0.1), groups)[1]["kl_reference"]
    assert everything == pytest.approx(k3(scored), rel=1e-3)


def test_watched_groups_take_turns_and_hold_as_many_completions_as_there_are_groups() -> None:
    assert [sorted(old_logprobs.watched_groups(step, 8, 8)) for step in (0, 1, 7, 8)] == [[0], [1], [7], [0]]
    assert [sorted(old_logprobs.watched_groups(step, 8, 3)) for step in (0, 1, 2)] == [
        [0, 1, 2],
        [3, 4, 5],
        [0, 6, 7],
    ]
    assert old_logprobs.watched_groups(3, 2, 16) == {1}


def test_mismatch_metrics_match_the_token_ratios() -> None:
    groups = [with_ratios(random_group(0, [1, 0], lengths=[2, 3]), {0: (0.1, -0.2), 1: (0.3, 0.0, -0.1)})]
    _, metrics = gradients(_config(), groups)
    log_ratios = np.array([0.1, -0.2, 0.3, 0.0, -0.1])
    weights = np.exp(log_ratios)
    assert metrics["kl_rollout"] == pytest.approx(np.mean(weights - 1 - log_ratios), abs=1e-6)
    assert metrics["ess"] == pytest.approx(weights.mean() ** 2 / (weights**2).mean(), rel=1e-5)
    assert metrics["logprob_difference_max"] == pytest.approx(0.3, abs=1e-5)
    assert metrics["masked_sequence_share"] == 0
    assert metrics["clip_share"] == 0  # exp(.1) < 1.2 for the right one; exp(-.1) > .8 for the wrong one


def test_masked_tokens_are_counted_and_leave_the_denominator() -> None:
    group = with_ratios(random_group(0, [1, 0], lengths=[2, 3]), {0: (-0.1, 0.9), 1: (0.0, 0.0, 0.0)})
    config = _config(importance_correction="mask", normalisation="token")
    actual, metrics = gradients(config, [group])
    assert metrics["masked_token_share"] == pytest.approx(1 / 5)  # exp(0.9) is above the cap of 2
    assert metrics["masked_sequence_share"] == 0
    model = build_policy().double()
    loss = torch.zeros((), dtype=torch.float64)
    for index, advantage, kept in ((0, 0.5, [True, False]), (1, -0.5, [True, True, True])):
        completion = group.group.completions[index]
        logprobs = token_logprobs(model, group.group.prompt_token_ids, completion.token_ids, 1.0)
        ratios = (logprobs - torch.from_numpy(completion.rollout_logprobs).double()).exp()
        loss = loss - advantage * ratios[torch.tensor(kept)].sum() / 4
    loss.backward()
    assert_equal_gradients(actual, [p.grad for p in model.parameters() if p.grad is not None])


def test_lambda_zero_is_leave_one_out() -> None:
    groups = _with_distances(mixed_groups())
    polychromic, _ = gradients(_polychromic(0.0), groups[:1])
    grpo, _ = gradients(_config(), groups[:1])
    assert_equal_gradients(polychromic, [4 / 3 * gradient for gradient in grpo])


def test_lambda_changes_the_direction_of_the_gradient() -> None:
    groups = _with_distances(mixed_groups())
    flat = [
        torch.cat([gradient.flatten() for gradient in gradients(_polychromic(weight), groups)[0]])
        for weight in (0.0, 10.0)
    ]
    cosine = float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
    assert cosine < 0.9
    assert float(flat[1].norm()) > 2 * float(flat[0].norm())


def test_an_unscored_completion_trains_nothing() -> None:
    groups = mixed_groups()
    kept = [0, 2, 3]
    group = groups[1]
    smaller = replace(
        group,
        group=replace(group.group, completions=tuple(group.group.completions[i] for i in kept)),
        rewards_G=group.rewards_G[kept],
        classes_G=group.classes_G[kept],
    )
    with_unscored, metrics = gradients(_config(), [groups[0], group])
    without, expected = gradients(_config(), [groups[0], smaller])
    for one, other in zip(with_unscored, without, strict=True):
        assert torch.equal(one, other)
    assert (metrics["unscored"], expected["unscored"]) == (1, 0)
    assert metrics["reward_mean"] == expected["reward_mean"]
