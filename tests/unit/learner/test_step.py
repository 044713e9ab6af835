"""One policy update against the loss written out token by token, and what must not change it."""

from __future__ import annotations

import copy
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
from tests.unit.learner.step_fixtures import (
    as_batch,
    assert_equal_gradients,
    build_learner,
    flat_gradient,
    gradients,
    literal_loss,
    mixed_groups,
    token_logprobs,
    with_ratios,
)
from tests.unit.tiny_policy import build_policy, random_group, train_config


def _config(learner: dict[str, Any] | None = None, temperature: float = 1.0, **algorithm: Any) -> TrainConfig:
    return train_config(
        rollout={"temperature": temperature},
        algorithm={"type": "grpo", **algorithm},
        learner={"max_grad_norm": 1e9, **(learner or {})},
    )


KL = {"kl_coefficient": 0.3}
LITERAL: list[tuple[float, dict[str, Any]]] = [
    (1.0, {"clip_high": 0.28}),
    (1.0, {"clip_high": 0.28, "kl_estimator": "k2", **KL}),
    (1.0, {"clip_high": 0.28, "kl_estimator": "k3", **KL}),
    (1.3, {"entropy_coefficient": 0.7}),
    (1.0, {"importance_correction": "mask", **KL}),
    (0.7, {"importance_cap": 1.2, "sequence_mask_band": 0.19, "clip_high": 0.1, **KL}),
]


@pytest.mark.parametrize("normalisation", ["constant", "token", "sequence", "sum"])
@pytest.mark.parametrize(("temperature", "algorithm"), LITERAL, ids=str)
def test_step_equals_the_literal_loss(
    normalisation: str, temperature: float, algorithm: dict[str, Any]
) -> None:
    config = _config(temperature=temperature, normalisation=normalisation, **algorithm)
    groups = mixed_groups(temperature)
    expected = literal_loss(config, groups)
    assert expected.masked_sequences >= 2 and expected.clipped_tokens > 1
    assert (expected.truncated_tokens == 0) == ("importance_correction" in algorithm)
    actual, metrics = gradients(config, groups)
    assert_equal_gradients(actual, expected.gradients)
    assert metrics["loss"] == pytest.approx(expected.loss, abs=1e-6)
    assert metrics["entropy"] == pytest.approx(expected.entropy, rel=1e-5)
    norm = torch.cat([gradient.flatten() for gradient in expected.gradients]).norm()
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["masked_sequence_share"] == pytest.approx(expected.masked_sequences / 11)
    assert metrics["masked_token_share"] == pytest.approx(expected.masked_token_share)


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


def test_watched_kl_is_k3_over_one_group_or_all() -> None:
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


@pytest.mark.parametrize("normalisation", ["constant", "token", "sequence"])
def test_batch_without_signal_or_masked_whole_changes_nothing(normalisation: str) -> None:
    masked = with_ratios(random_group(0, [1, 0], lengths=[2, 3]), {0: (2.0, 2.0), 1: (-2.0, -2.0, -2.0)})
    still = [random_group(0, [1, 1, 1]), random_group(1, [0, 0, 0])]
    for groups, expected in ((still, {"zero_advantage_share": 1}), ([masked], {"masked_sequence_share": 1})):
        learner = build_learner(_config(normalisation=normalisation))
        before = [parameter.detach().clone() for parameter in learner.parameters]
        metrics = learner.step(as_batch(groups))
        assert all(torch.equal(old, new) for old, new in zip(before, learner.parameters, strict=True))
        assert metrics.items() >= {"grad_norm": 0, "loss": 0, **expected}.items()


def test_first_adamw_step_moves_the_policy_adapter_alone_by_the_clipped_gradient() -> None:
    free, free_metrics = gradients(_config(), mixed_groups())
    limit = float(free_metrics["grad_norm"]) / 4  # type: ignore[arg-type]
    learner = build_learner(_config({"learning_rate": 0.01, "warmup_steps": 2, "max_grad_norm": limit}))
    before = {name: value.detach().clone() for name, value in learner.model.named_parameters()}
    metrics = learner.step(as_batch(mixed_groups()))
    assert metrics["grad_norm"] == free_metrics["grad_norm"]  # that before clipping
    rate = 0.01 / 3  # the first of two warm-up steps
    assert metrics["lr"] == pytest.approx(rate)
    assert learner.scheduler.get_last_lr() == [pytest.approx(2 * rate)]
    gradients_before = iter(free)
    frozen = set()
    for name, parameter in learner.model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name])
            frozen.add("reference" if ".reference." in name else "base")
            continue
        gradient = parameter.grad
        assert gradient is not None
        torch.testing.assert_close(gradient, next(gradients_before) / 4, rtol=1e-4, atol=1e-9)
        expected = before[name] - rate * gradient / (gradient.abs() + 1e-8)  # moments are g and g^2
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)
    assert frozen == {"reference", "base"} and next(gradients_before, None) is None


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.5])
def test_kl_to_the_warm_start_is_zero_at_step_zero_alone(kl_coefficient: float) -> None:
    config = _config({"learning_rate": 0.05, "warmup_steps": 0}, kl_coefficient=kl_coefficient)
    warm_start = build_policy(reference=False)  # an adapter that was trained before, as SFT leaves it
    add_reference(warm_start)
    learner = build_learner(config, warm_start)
    first, second = (learner.step(as_batch(mixed_groups()))["kl_reference"] for _ in range(2))
    assert first == pytest.approx(0, abs=1e-11)
    assert float(second) > 1e-4  # type: ignore[arg-type]


def test_base_in_bfloat16_has_the_gradient_in_float32() -> None:
    exact, rounded = build_policy(), build_policy()
    rounded.get_base_model().to(torch.bfloat16)  # type: ignore[arg-type, operator]
    for name, parameter in rounded.named_parameters():
        if ".lora_" in name:
            parameter.data = exact.get_parameter(name).data.clone()
    config, metrics, gradient = _config(kl_coefficient=0.1, sequence_mask_band=50.0), [], []
    for model in (exact, rounded):
        learner = build_learner(config, model)
        metrics.append(learner.step(as_batch(mixed_groups())))
        gradient.append(torch.cat([parameter.grad.flatten() for parameter in learner.parameters]))  # type: ignore[union-attr]
    assert gradient[1].dtype == torch.float32
    assert all(np.isfinite(value) for value in metrics[1].values() if isinstance(value, float))
    assert metrics[1]["entropy"] == pytest.approx(metrics[0]["entropy"], rel=0.01)
    assert metrics[1]["logprob_difference_mean"] == pytest.approx(
        metrics[0]["logprob_difference_mean"], abs=0.02
    )
    assert float(torch.nn.functional.cosine_similarity(*gradient, dim=0)) > 0.99


def test_lambda_zero_is_leave_one_out_and_a_large_one_has_another_direction() -> None:
    distances = np.abs(np.subtract.outer([0.0, 0.2, 0.9, 0.5], [0.0, 0.2, 0.9, 0.5]))
    groups = [replace(group, distances_GG=distances) for group in mixed_groups()]
    polychromic = {"type": "polychromic", "objective": "pairwise", "set_size": 2}
    without, large = (_config(**polychromic, diversity_weight=weight) for weight in (0.0, 10.0))
    grpo = flat_gradient(_config(), groups[:1])
    torch.testing.assert_close(flat_gradient(without, groups[:1]), 4 / 3 * grpo, rtol=1e-4, atol=1e-7)
    flat = [flat_gradient(config, groups) for config in (without, large)]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) < 0.9
    assert float(flat[1].norm()) > 2 * float(flat[0].norm())
