"""The learning-rate schedule and the optimiser's settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polyray.config.learner import LearnerSpec
from polyray.learner.optim import build_optimizer, build_scheduler, lr_share


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        (
            {"warmup_steps": 2, "final_lr_share": 0.5},
            {0: 1 / 3, 1: 2 / 3, 2: 1.0, 3: 0.95, 7: 0.75, 12: 0.5, 14: 0.5},
        ),
        (
            {"warmup_steps": 0, "final_lr_share": 0.2, "lr_schedule": "cosine"},
            {0: 1.0, 3: 1 - 0.8 * (1 - 0.5**0.5) / 2, 6: 0.6, 12: 0.2, 20: 0.2},
        ),
        ({"warmup_steps": 5}, {0: 1 / 6, 4: 5 / 6, 5: 1.0, 9: 1.0}),
    ],
)
def test_learning_rate_warms_up_and_decays_to_the_last_step(
    settings: dict[str, Any], shares: dict[int, float]
) -> None:
    spec = LearnerSpec(steps=13, **settings)
    assert {step: lr_share(step, spec) for step in shares} == pytest.approx(shares)


def test_optimizer_holds_trainable_parameters_and_its_schedule_counts_steps() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    spec = LearnerSpec(learning_rate=0.1, warmup_steps=1, betas=(0.5, 0.6), weight_decay=0.25)
    optimizer = build_optimizer(layer.parameters(), spec)
    scheduler = build_scheduler(optimizer, spec)
    (group,) = optimizer.param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(layer.weight)]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.5, 0.6), 0.25, pytest.approx(0.05))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert group["lr"] == pytest.approx(0.1)
