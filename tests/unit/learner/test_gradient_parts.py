"""The gradients of quality and diversity, against one backward pass per completion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.model import LoraSpec
from polyray.config.run import TrainConfig
from polyray.learner.advantages import compute_advantages
from polyray.models.lora import add_reference, attach_adapter
from polyray.types import ScoredGroup
from tests.unit.learner.step_fixtures import as_batch, build_learner, token_logprobs
from tests.unit.tiny_policy import build_base, move, random_group, train_config

BOTH = {"type": "polychromic", "objective": "cluster", "set_size": 2, "quality_weight": 1.0}
KEYS = ("quality_norm", "diversity_norm", "cosine")


def two_layers() -> Any:
    lora = LoraSpec(rank=4, alpha=8)
    model = attach_adapter(build_base(num_hidden_layers=2), lora, None, base_sha256="b" * 64, seed=0)
    add_reference(model)
    move(model, 0.1)
    return model


def groups() -> list[ScoredGroup]:
    return [
        random_group(0, [1, 0, 1, 1], classes=[7, -1, 8, 7], lengths=[2, 3, 4, 6]),
        random_group(1, [0.5, float("nan"), 1, 0], classes=[-1, -1, 9, -1], lengths=[1, 5, 2, 3]),
    ]


def config_of(every: int | None, **algorithm: Any) -> TrainConfig:
    return train_config(
        algorithm={**BOTH, "diversity_weight": 0.7, **algorithm},
        learner={"gradient_parts_every": every, "micro_batch_rows": 3},
    )


def brute_force(model: Any, config: TrainConfig) -> dict[str, float]:
    """Norms and cosines of sum_i part_i grad log pi(y_i) / denominator, a layer at a time."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    totals = {part: [torch.zeros_like(p, dtype=torch.float64) for _, p in named] for part in KEYS[:2]}
    rows = tokens = 0
    for group in groups():
        advantages = compute_advantages(group, config.algorithm)
        for index, completion in enumerate(group.group.completions):
            if np.isnan(group.rewards_G[index]):
                continue
            rows, tokens = rows + 1, tokens + len(completion.token_ids)
            logprobs = token_logprobs(model, group.group.prompt_token_ids, completion.token_ids, 1.0)
            value = logprobs.mean() if config.algorithm.normalisation == "sequence" else logprobs.sum()
            found = torch.autograd.grad(-value, [p for _, p in named])
            for part, weights in zip(
                KEYS[:2], (advantages.quality_part_G, advantages.diversity_part_G), strict=True
            ):
                for total, gradient in zip(totals[part], found, strict=True):
                    total += float(weights[index]) * gradient.double()
    denominator = {"token": tokens, "sequence": rows, "sum": rows, "constant": rows * 6}[
        config.algorithm.normalisation
    ]
    values = {}
    for layer in ("0", "1", "all"):
        chosen = [i for i, (name, _) in enumerate(named) if layer == "all" or f".layers.{layer}." in name]
        q, d = (torch.cat([totals[part][i].reshape(-1) for i in chosen]) / denominator for part in KEYS[:2])
        found = (q.norm(), d.norm(), q @ d / q.norm() / d.norm())
        values |= {f"gradient/{layer}/{key}": float(value) for key, value in zip(KEYS, found, strict=True)}
    return values


@pytest.mark.parametrize("normalisation", ["token", "sequence"])
def test_gradient_parts_are_sums_over_completions(normalisation: str) -> None:
    config = config_of(1, normalisation=normalisation)
    model = two_layers()
    expected = brute_force(model, config)
    metrics = build_learner(config, model).step(as_batch(groups()))
    found = {key: value for key, value in metrics.items() if key.startswith("gradient/")}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert expected["gradient/all/quality_norm"] > 1e-3 < expected["gradient/all/diversity_norm"]


def test_gradient_parts_every_second_step_change_nothing_else() -> None:
    plain, measured = (build_learner(config_of(every), two_layers()) for every in (None, 2))
    for step in range(3):
        batch = replace(as_batch(groups()), step=step)
        expected, metrics = plain.step(batch), measured.step(batch)
        parts = {key for key in metrics if key.startswith("gradient/")}
        assert bool(parts) == (step != 1)
        assert {key: value for key, value in metrics.items() if key not in parts} == expected
        for one, other in zip(plain.parameters, measured.parameters, strict=True):
            assert torch.equal(one, other)


def test_zero_diversity_weight_has_no_diversity_gradient() -> None:
    metrics = build_learner(config_of(1, diversity_weight=0.0), two_layers()).step(as_batch(groups()))
    assert metrics["gradient/0/diversity_norm"] == 0 != metrics["gradient/0/quality_norm"]
    assert metrics["gradient/all/cosine"] is None
