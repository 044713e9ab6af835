"""The weight that `entropy_coefficient` gives to entropy under each normalisation, in float64 and on the learner."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from polyray.types import ScoredGroup
from tests.unit.learner.step_fixtures import assert_equal_gradients, gradients, with_ratios
from tests.unit.tiny_policy import build_policy, random_group, train_config

COEFFICIENT, TEMPERATURE, MAX_TOKENS = 0.7, 1.3, 6
LENGTHS = ([2, 3, 4, 6], [1, 5, 2])
Mean = Callable[[list[torch.Tensor]], torch.Tensor]
"""Entropies [T] of each completion -> the mean that the coefficient weighs."""
MEANS: dict[str, Mean] = {
    "token": lambda entropies: torch.cat(entropies).mean(),
    "sequence": lambda entropies: torch.stack([h_T.mean() for h_T in entropies]).mean(),
    "sum": lambda entropies: torch.stack([h_T.sum() for h_T in entropies]).mean(),
    "constant": lambda entropies: torch.stack([h_T.sum() for h_T in entropies]).mean() / MAX_TOKENS,
}


def equal_rewards() -> list[ScoredGroup]:
    """Groups without any advantage: the loss is the entropy alone."""
    return [
        with_ratios(random_group(at, [1.0] * len(lengths), lengths=lengths), {}, TEMPERATURE)
        for at, lengths in enumerate(LENGTHS)
    ]


def entropies(model: torch.nn.Module, group: ScoredGroup) -> list[torch.Tensor]:
    found = []
    prompt = group.group.prompt_token_ids
    for completion in group.group.completions:
        tokens = torch.tensor([*prompt.tolist(), *completion.token_ids.tolist()])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        logprobs_TV = (logits / TEMPERATURE).log_softmax(-1)
        found.append(-(logprobs_TV.exp() * logprobs_TV).sum(-1))
    return found


@pytest.mark.parametrize("normalisation", MEANS)
def test_entropy_coefficient_weighs_the_mean_of_its_normalisation(normalisation: str) -> None:
    groups = equal_rewards()
    config = train_config(
        algorithm={"type": "grpo", "entropy_coefficient": COEFFICIENT, "normalisation": normalisation},
        rollout={"temperature": TEMPERATURE, "max_completion_tokens": MAX_TOKENS},
        learner={"max_grad_norm": 1e9},
    )
    actual, metrics = gradients(config, groups)
    model = copy.deepcopy(build_policy()).double()
    values = [h_T for group in groups for h_T in entropies(model, group)]
    loss = -COEFFICIENT * MEANS[normalisation](values)
    loss.backward()
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert metrics["entropy"] == pytest.approx(float(torch.cat(values).mean().detach()), rel=1e-5)
    assert_equal_gradients(actual, [p.grad for p in model.parameters() if p.grad is not None])
