"""The learning-rate schedule and the optimiser's settings."""

from __future__ import annotations

import pytest
import torch

from polyray.config.learner import LearnerSpec
from polyray.learner.optim import build_optimizer, build_scheduler, lr_share


def test_warm_up_then_linear_decay_to_the_last_step() -> None:
    spec = LearnerSpec(steps=13, warmup_steps=2, final_lr_share=0.5)
    shares = [lr_share(step, spec) for step in range(15)]
    assert shares[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.95])
    assert shares[7] == pytest.approx(0.75)
    assert shares[12:] == pytest.approx([0.5, 0.5, 0.5])


def test_half_a_cosine_falls_slowly_first() -> None:
    spec = LearnerSpec(steps=13, warmup_steps=0, final_lr_share=0.2, lr_schedule="cosine")
    shares = [lr_share(step, spec) for step in (0, 3, 6, 12, 20)]
    assert shares == pytest.approx([1.0, 1 - 0.8 * (1 - 0.5**0.5) / 2, 0.6, 0.2, 0.2])


def test_constant_after_the_warm_up_by_default() -> None:
    spec = LearnerSpec(steps=10, warmup_steps=5)
    assert [lr_share(step, spec) for step in (0, 4, 5, 9)] == pytest.approx([1 / 6, 5 / 6, 1.0, 1.0])


def test_only_trainable_parameters_are_optimised_and_the_schedule_counts_steps() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    spec = LearnerSpec(learning_rate=0.1, warmup_steps=1, betas=(0.5, 0.6), weight_decay=0.25)
    optimizer = build_optimizer(layer.parameters(), spec)
    scheduler = build_scheduler(optimizer, spec)
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == [id(layer.weight)]
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
