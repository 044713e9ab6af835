"""A learner on the tiny model, batches whose ratios are known, and the loss written out in float64."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from peft import PeftModel

from polyray.config.run import TrainConfig
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.step import PolicyLearner
from polyray.learner.supervised_term import SupervisedTerm
from polyray.models.lora import POLICY, REFERENCE
from polyray.types import ScoredGroup, StepMetrics, TrainingBatch
from tests.unit.tiny_policy import NUM_FACTORS, build_policy, random_group

NAN = float("nan")
TRUNCATED = (0.9, -0.3, -0.2)
"""Log ratios of a completion with one token above the cap of 2."""
DRIFTED = (0.8, 0.7, 0.3, 0.9)
"""Log ratios whose mean leaves the band of 0.5."""


def build_learner(
    config: TrainConfig, model: PeftModel | None = None, supervised: SupervisedTerm | None = None
) -> PolicyLearner:
    """A learner with its own optimiser; gradients stay readable after `step` (and unclipped by config)."""
    model = model or build_policy()
    optimizer = build_optimizer(model.parameters(), config.learner)
    return PolicyLearner(model, optimizer, build_scheduler(optimizer, config.learner), config, supervised)


def as_batch(groups: Sequence[ScoredGroup]) -> TrainingBatch:
    """All of them on one rank."""
    return TrainingBatch(step=0, groups=tuple(groups), num_groups_total=len(groups))


def gradients(config: TrainConfig, groups: Sequence[ScoredGroup]) -> tuple[list[torch.Tensor], StepMetrics]:
    """The gradient of one step, before clipping where the configuration clips nothing, and its metrics."""
    learner = build_learner(config)
    metrics = learner.step(as_batch(groups))
    return [parameter.grad.clone() for parameter in learner.parameters if parameter.grad is not None], metrics


def assert_equal_gradients(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Equal to float32 rounding, and not because both are nothing."""
    assert len(actual) == len(expected) == NUM_FACTORS
    largest = max(float(tensor.abs().max()) for tensor in expected)
    assert largest > 1e-3
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=2e-5 * largest, rtol=1e-4)


def flat_gradient(config: TrainConfig, groups: Sequence[ScoredGroup]) -> torch.Tensor:
    """The gradient of one step as one vector."""
    return torch.cat([tensor.flatten() for tensor in gradients(config, groups)[0]])


def mixed_groups(temperature: float = 1.0) -> list[ScoredGroup]:
    """See `_mixed_groups`."""
    return list(_mixed_groups(temperature))


@functools.cache
def _mixed_groups(temperature: float) -> tuple[ScoredGroup, ...]:
    """Three groups: a truncated and a drifted completion with negative advantages, clipped ones of both signs,
    one that is not scored, and a group without signal."""
    groups = [
        random_group(0, [1, 0, 0, 1], classes=[7, -1, -1, 8], lengths=[2, 3, 4, 6]),
        random_group(1, [0.5, NAN, 1, 0], classes=[-1, -1, 9, -1], lengths=[1, 5, 2, 3]),
        random_group(2, [1, 1, 1, 1], classes=[3, 3, 3, 4], lengths=[2, 1, 5, 3]),
    ]
    ratios = {
        (0, 0): (0.3, -0.25),
        (0, 1): TRUNCATED,
        (0, 2): DRIFTED,
        (1, 2): (0.5, -0.4),
        (1, 3): (-0.4, -0.3, 0.1),
        (2, 2): (0.6, 0.5, 0.9, 0.4, 0.7),
    }
    return tuple(
        with_ratios(
            group, {index: values for (number, index), values in ratios.items() if number == i}, temperature
        )
        for i, group in enumerate(groups)
    )


def with_ratios(
    group: ScoredGroup, log_ratios: dict[int, tuple[float, ...]], temperature: float = 1.0
) -> ScoredGroup:
    """Rollout log-probs such that `build_policy()` has these log ratios to them; small ones where not given."""
    model = build_policy().double()
    completions = []
    for index, completion in enumerate(group.group.completions):
        with torch.no_grad():
            values = token_logprobs(
                model, group.group.prompt_token_ids, completion.token_ids, temperature
            ).numpy()
        small = np.linspace(-0.05, 0.08, len(values))
        ratios = np.asarray(log_ratios.get(index, small))
        completions.append(replace(completion, rollout_logprobs=(values - ratios).astype(np.float32)))
    return replace(group, group=replace(group.group, completions=tuple(completions)))


def token_logprobs(
    model: torch.nn.Module, prompt: np.ndarray, completion: np.ndarray, temperature: float
) -> torch.Tensor:
    """[T] log-probs of one completion in the model's own precision, from one plain forward pass."""
    return logprobs_and_entropy(model, prompt, completion, temperature)[0]


def logprobs_and_entropy(
    model: torch.nn.Module, prompt: np.ndarray, completion: np.ndarray, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[T] log-probs of one completion, [T] entropies in nats of what was sampled from."""
    tokens = torch.tensor([*prompt.tolist(), *completion.tolist()])
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    logprobs_TV = (logits / temperature).log_softmax(-1)
    taken = logprobs_TV[torch.arange(len(completion)), tokens[len(prompt) :]]
    return taken, -(logprobs_TV.exp() * logprobs_TV).sum(-1)


@dataclass
class LiteralLoss:
    """Result of the transcribed loss."""

    loss: float
    gradients: list[torch.Tensor]
    masked_sequences: int
    truncated_tokens: int
    clipped_tokens: int
    entropy: float
    masked_token_share: float


def literal_loss(config: TrainConfig, groups: Sequence[ScoredGroup]) -> LiteralLoss:
    """The loss of a batch with GRPO advantages, in float64, one sequence and one token at a time."""
    spec, temperature = config.algorithm, config.rollout.temperature
    band = spec.sequence_mask_band if spec.sequence_mask_band is not None else math.inf
    model = copy.deepcopy(build_policy()).double()
    numerator = torch.zeros((), dtype=torch.float64)
    sequences = tokens = masked = truncated = clipped = 0
    entropies: list[torch.Tensor] = []
    for group in groups:
        scored = [reward for reward in group.rewards_G if not np.isnan(reward)]
        for completion, reward in zip(group.group.completions, group.rewards_G, strict=True):
            if np.isnan(reward):
                continue
            advantage = float(reward) - sum(scored) / len(scored)
            prompt, answer = group.group.prompt_token_ids, completion.token_ids
            model.set_adapter(REFERENCE)
            with torch.no_grad():
                reference = token_logprobs(model, prompt, answer, temperature)
            model.set_adapter(POLICY)
            policy, entropy = logprobs_and_entropy(model, prompt, answer, temperature)
            entropies.append(entropy.detach())
            rollout = torch.from_numpy(completion.rollout_logprobs).double()
            if abs(float((policy.detach() - rollout).mean())) > band:
                masked += 1
                continue
            ratios = (policy.detach() - rollout).exp()
            is_kept = spec.importance_correction != "mask" or ratios <= spec.importance_cap
            kept = torch.ones(len(answer), dtype=torch.bool) & torch.as_tensor(is_kept)
            sequences += bool(kept.any())
            tokens += int(kept.sum())
            total = torch.zeros((), dtype=torch.float64)
            for t in kept.nonzero()[:, 0].tolist():
                ratio = (policy[t] - rollout[t]).exp()
                inside = min(max(ratio, torch.tensor(1 - spec.clip_low)), torch.tensor(1 + spec.clip_high))
                term = -min(ratio * advantage, inside * advantage)
                clipped += advantage != 0 and bool(inside * advantage < ratio * advantage)
                size = float(ratio.detach())
                truncated += size > spec.importance_cap and advantage < 0
                term = term * (min(size, spec.importance_cap) / size)
                log_ratio = policy[t] - reference[t]
                k2, k3 = log_ratio**2 / 2, (-log_ratio).exp() - 1 + log_ratio
                total = total + term + spec.kl_coefficient * (k2 if spec.kl_estimator == "k2" else k3)
                total = total - spec.entropy_coefficient * entropy[t]
            numerator = numerator + (total / kept.sum() if spec.normalisation == "sequence" else total)
    denominator = {
        "constant": sequences * config.rollout.max_completion_tokens,
        "token": tokens,
        "sequence": sequences,
        "sum": sequences,
    }[spec.normalisation]
    loss = numerator / denominator
    loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    of_all = torch.cat(entropies)
    return LiteralLoss(
        float(loss.detach()),
        found,
        masked,
        truncated,
        clipped,
        float(of_all.mean()),
        1 - tokens / len(of_all),
    )
