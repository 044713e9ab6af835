"""Polychromic SFT: L = CE - lambda D with the gradient that D really has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyray.algorithms import enumerated_set_credits
from polyray.config.run import TrainConfig
from polyray.data.chat import encode_demonstration
from polyray.errors import ConfigError
from polyray.learner import reduce
from polyray.learner.supervised_term import build_supervised_term
from polyray.models.tokenizer import load_tokenizer
from polyray.tasks import build_task
from polyray.types import ScoredGroup
from tests.unit.learner.step_fixtures import (
    as_batch,
    assert_equal_gradients,
    build_learner,
    token_logprobs,
    with_ratios,
)
from tests.unit.learner.test_step_ranks import Ranks
from tests.unit.tiny_policy import build_policy, random_group, train_config

CLASSES = [7, 8, -1, 7]


def _config(diversity_weight: float, weight: float = 1.0, **learner: object) -> TrainConfig:
    return train_config(
        algorithm={
            "type": "polychromic", "objective": "distinct_correct", "quality_weight": 0.0,
            "diversity_weight": diversity_weight, "set_size": 2, "normalisation": "sum",
        },
        supervised={"demonstrations_per_step": 4, "max_tokens": 32, "weight": weight},
        learner={"max_grad_norm": 1e9, "warmup_steps": 0, **learner},
    )  # fmt: skip


def _group() -> ScoredGroup:
    """Sampled from the policy itself."""
    group = random_group(0, [1, 1, 0, 1], classes=CLASSES, lengths=[2, 3, 1, 2])
    return with_ratios(group, {i: (0.0,) * len(c.token_ids) for i, c in enumerate(group.group.completions)})


def _step(config: TrainConfig, model_dir: Path, step: int = 0) -> tuple[list[torch.Tensor], float]:
    learner = build_learner(config, supervised=build_supervised_term(config, model_dir))
    metrics = learner.step(replace(as_batch([_group()]), step=step))
    loss = metrics["supervised_loss"]
    assert isinstance(loss, float)
    return [p.grad for p in learner.parameters if p.grad is not None], loss


def _literal(config: TrainConfig, diversity_weight: float, weight: float, model_dir: Path, step: int = 0):
    """CE per response token over four demonstrations, and the credits of D over all pairs, in float64."""
    model = build_policy().double()
    tokenizer, task = load_tokenizer(model_dir), build_task(config.task)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for index in range(4 * step, 4 * step + 4):
        row = encode_demonstration(tokenizer, *task.demonstration(index, config.seed), 32)
        tokens = torch.tensor(row.token_ids)
        prompt, answer = tokens[: row.response_start].numpy(), tokens[row.response_start :].numpy()
        total = total - token_logprobs(model, prompt, answer, 1.0).sum()
        count += len(answer)
    cross_entropy = total / count
    credits = enumerated_set_credits(lambda s: len({CLASSES[i] for i in s} - {-1}) / 2, 4, 2)
    group = _group().group
    surrogate = sum(
        credit * token_logprobs(model, group.prompt_token_ids, completion.token_ids, 1.0).sum()
        for credit, completion in zip(credits, group.completions, strict=True)
    )
    (weight * cross_entropy - diversity_weight * surrogate).backward()
    return [p.grad for p in model.parameters() if p.grad is not None], float(cross_entropy.detach())


@pytest.mark.parametrize(
    ("diversity_weight", "weight", "step"), [(0.0, 1.0, 0), (10.0, 1.0, 0), (0.5, 0.2, 3)]
)
def test_gradient_is_that_of_cross_entropy_minus_lambda_diversity(
    diversity_weight: float, weight: float, step: int, model_dir: Path
) -> None:
    config = _config(diversity_weight, weight)
    actual, loss = _step(config, model_dir, step)
    expected, cross_entropy = _literal(config, diversity_weight, weight, model_dir, step)
    assert loss == pytest.approx(cross_entropy, rel=1e-6)
    assert_equal_gradients(actual, expected)


def test_two_ranks_share_the_demonstrations(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(2.0, num_workers=2)
    expected, loss = _step(config, model_dir)
    empty = random_group(7, [1, 0, 1], lengths=[0, 0, 0])
    terms = [build_supervised_term(config, model_dir) for _ in range(2)]
    learners = [build_learner(config, supervised=term) for term in terms]
    monkeypatch.setattr(reduce, "dist", Ranks())
    shares = [as_batch([_group()]), as_batch([empty])]
    with ThreadPoolExecutor(2) as pool:
        metrics = list(pool.map(lambda pair: pair[0].step(pair[1]), zip(learners, shares, strict=True)))
    for learner, line in zip(learners, metrics, strict=True):
        assert line["supervised_loss"] == pytest.approx(loss, rel=1e-5)
        assert_equal_gradients([p.grad for p in learner.parameters if p.grad is not None], expected)
    too_many = config.model_copy(update={"learner": config.learner.model_copy(update={"num_workers": 5})})
    with pytest.raises(ConfigError, match=r"demonstrations_per_step=4.*learner\.num_workers=5"):
        build_supervised_term(too_many, model_dir)
    assert build_supervised_term(train_config(), model_dir) is None
