"""Clip-Cov and KL-Cov choose among all tokens of an update; the engine's error decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.run import TrainConfig
from polyray.learner import step as step_module
from polyray.types import ScoredGroup
from tests.unit.learner.step_fixtures import (
    assert_equal_gradients,
    gradients,
    mixed_groups,
    token_logprobs,
    with_ratios,
)
from tests.unit.tiny_policy import build_policy, random_group, train_config

METHODS: dict[str, dict[str, Any]] = {
    "clip_cov": {"covariance": "clip_cov", "covariance_band": (0.05, 9.0), "covariance_share": 0.1},
    "kl_cov": {"covariance": "kl_cov", "kl_cov_coefficient": 3.0, "covariance_share": 0.1},
    "kl_cov, proximal": {"covariance": "kl_cov", "proximal": "learner", "covariance_share": 0.1},
}


def config_of(algorithm: dict[str, Any], learner: dict[str, Any] | None = None) -> TrainConfig:
    return train_config(
        algorithm={"type": "grpo", **algorithm},
        learner={"max_grad_norm": 1e9, "updates_per_batch": 2, **(learner or {})},
    )


def norm(values: Sequence[torch.Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in values]).norm())


@pytest.mark.parametrize("name", METHODS)
def test_update_with_covariance_is_independent_of_micro_batches(name: str) -> None:
    groups = mixed_groups()
    whole, metrics = gradients(config_of(METHODS[name]), groups)
    without, _ = gradients(config_of({"proximal": METHODS[name].get("proximal", "rollout")}), groups)
    assert norm([one - other for one, other in zip(whole, without, strict=True)]) > 0.05 * norm(whole)
    for size in ({"micro_batch_rows": 1}, {"micro_batch_rows": 2}, {"micro_batch_tokens": 12}):
        parts, of_parts = gradients(config_of(METHODS[name], size), groups)
        assert_equal_gradients(parts, whole)
        assert of_parts["loss"] == pytest.approx(metrics["loss"], rel=1e-4, abs=1e-6)


def test_chosen_tokens_have_the_largest_covariance_in_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups, chosen = mixed_groups(), set()
    original = step_module.token_loss

    def recorded(batch: Any, *rest: Any) -> Any:
        for row, t in batch.chosen_BT.nonzero().tolist():
            chosen.add((*batch.sample_ids[row], t))
        return original(batch, *rest)

    monkeypatch.setattr(step_module, "token_loss", recorded)
    config = config_of(METHODS["kl_cov"], {"micro_batch_rows": 2, "learning_rate": 1e-9})
    gradients(config, groups)
    model, found = build_policy().double(), {}
    for group in groups:
        scored = group.rewards_G[np.isfinite(group.rewards_G)]
        for index, completion in enumerate(group.group.completions):
            with torch.no_grad():
                logprobs = token_logprobs(model, group.group.prompt_token_ids, completion.token_ids, 1.0)
            drift = abs(float(logprobs.mean()) - completion.rollout_logprobs.mean())
            if drift > 0.5 or np.isnan(group.rewards_G[index]):
                continue
            advantage = float(group.rewards_G[index] - scored.mean())
            for t, value in enumerate(logprobs.tolist()):
                found[group.group.group_id, index, t] = (advantage, value)
    values = np.array(list(found.values()))
    covariances = np.prod(values - values.mean(axis=0), axis=1)
    largest = np.argsort(-covariances)[: int(0.1 * len(found))]
    assert len(found) == 23 and len(largest) == 2
    assert chosen == {list(found)[i] for i in largest}


def test_clip_cov_draws_by_seed() -> None:
    config = config_of({**METHODS["clip_cov"], "covariance_band": (-9.0, 9.0)}, {"updates_per_batch": 1})
    found = [gradients(config, mixed_groups())[0] for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    other, _ = gradients(config.model_copy(update={"seed": config.seed + 1}), mixed_groups())
    assert not all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@functools.cache
def at_distance(noise: float) -> list[ScoredGroup]:
    """Groups whose engine is off by the same `noise` in nats at every token."""
    lengths = [3, 4, 5, 6]
    ratios = {index: (noise,) * length for index, length in enumerate(lengths)}
    return [with_ratios(random_group(g, [1, 0, 0, 1], lengths=lengths), ratios) for g in range(3)]


@pytest.mark.parametrize(
    "algorithm",
    [
        *METHODS.values(),
        {"surrogate": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "proximal": "learner"},
        {"surrogate": "gspo"},
        {"surrogate": "sapo"},
        {"surrogate": "cispo"},
        {"kl_coefficient": 1.0, "kl_estimator": "k1"},
        {"kl_coefficient": 1.0, "kl_estimator": "k1", "kl_placement": "reward"},
        {"importance_correction": "two_sided"},
        {"importance_cap": 1.0},
    ],
    ids=str,
)
def test_small_engine_noise_changes_the_gradient_little(algorithm: dict[str, Any]) -> None:
    updates = 2 if "covariance" in algorithm else 1
    config = config_of(algorithm, {"updates_per_batch": updates, "learning_rate": 1e-4})
    above, below = (gradients(config, at_distance(noise))[0] for noise in (1e-3, -1e-3))
    difference = [one - other for one, other in zip(above, below, strict=True)]
    assert norm(difference) < 0.02 * norm(above)
