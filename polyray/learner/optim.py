"""Optimiser and learning-rate schedule from a LearnerSpec; the same for pretraining, SFT and RL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import cos, pi
from typing import Any

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from polyray.config.learner import LearnerSpec


def build_optimizer(parameters: Iterable[Parameter], spec: LearnerSpec) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) over those of `parameters` that require a gradient."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return AdamW(trainable, lr=spec.learning_rate, betas=spec.betas, weight_decay=spec.weight_decay)


def build_scheduler(optimizer: Optimizer, spec: LearnerSpec) -> LambdaLR:
    """Step once per training step; its state is the number of steps taken."""
    return LambdaLR(optimizer, lambda step: lr_share(step, spec))


def restore_schedule(scheduler: LambdaLR, state: Mapping[str, Any]) -> None:
    """Puts a schedule back at the step of a saved `state`, and the optimiser's rates with it.

    The rates are those of the schedule that `scheduler` was built with: a run that was made longer has another rate
    at the same step.
    """
    scheduler.load_state_dict({**scheduler.state_dict(), **state})
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * share(scheduler.last_epoch) for base, share in pairs]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def lr_share(step: int, spec: LearnerSpec) -> float:
    """The share of `spec.learning_rate` that training step `step` (from 0) uses, for all its updates.

    Rises linearly over `warmup_steps`, then falls to `final_lr_share` in the last step, in a straight line or half a
    cosine.
    """
    if step < spec.warmup_steps:
        return (step + 1) / (spec.warmup_steps + 1)
    decay_steps = max(1, spec.steps - 1 - spec.warmup_steps)
    progress = min(1.0, (step - spec.warmup_steps) / decay_steps)
    fallen = progress if spec.lr_schedule == "linear" else (1 - cos(pi * progress)) / 2
    return 1.0 - (1.0 - spec.final_lr_share) * fallen
