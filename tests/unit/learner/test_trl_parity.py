"""Loss and gradient of a learner step against TRL's GRPOTrainer, on one model in float64.

Two sources of the expected numbers: TRL's formulas, transcribed below, and TRL's own `_compute_loss` where TRL is
installed. It runs on a stand-in for the trainer, which holds the settings that it reads and returns the log-probs of
the model. TRL has other names: its "epsilon_high" of CISPO is the cap, its "delta" the dual clip, its level
"sequence" GSPO; its KL is k3.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polyray.algorithms import sequence_log_ratio, soft_gated_loss
from polyray.config.run import TrainConfig
from polyray.models.lora import POLICY, REFERENCE
from polyray.types import ScoredGroup
from tests.unit.learner.step_fixtures import as_batch, build_learner, token_logprobs, with_ratios
from tests.unit.tiny_policy import build_policy, random_group, train_config

MAX_TOKENS = 9
"""Longer than any completion."""
LOW, HIGH, CAP, DUAL = 0.2, 0.28, 1.5, 2.0
TOLERANCE = 1e-7
"""The model normalises in float32 even where its weights are float64."""


@dataclass(frozen=True)
class Case:
    """One loss type in TRL's words and in a configuration."""

    trl: dict[str, Any]
    algorithm: dict[str, Any]
    halves: bool = True
    """Whether TRL's loss is the same in two micro-batches."""
    own_start: bool = False
    """TRL with vLLM: the ratio is measured from the trainer's log-probs, and the engine's give a truncated weight."""
    entropy: float = field(default=0.0)


CASES = {
    "grpo": Case({"loss_type": "grpo"}, {"normalisation": "sequence"}),
    "bnpo": Case({"loss_type": "bnpo"}, {"normalisation": "token"}, halves=False),
    "dr_grpo": Case({"loss_type": "dr_grpo"}, {"normalisation": "constant"}),
    "dapo": Case({"loss_type": "dapo"}, {"normalisation": "token"}),
    "dapo, entropy": Case({"loss_type": "dapo"}, {"normalisation": "token"}, halves=False, entropy=0.3),
    "dapo, vllm": Case(
        {"loss_type": "dapo"},
        {
            "normalisation": "token",
            "proximal": "learner",
            "importance_correction": "truncate",
            "importance_cap": CAP,
        },
        own_start=True,
    ),
    "dual clip": Case({"loss_type": "dapo", "delta": DUAL}, {"normalisation": "token", "dual_clip": DUAL}),
    "cispo": Case(
        {"loss_type": "cispo", "epsilon_high": CAP},
        {"surrogate": "cispo", "cispo_cap": CAP, "normalisation": "token"},
    ),
    "sapo": Case({"loss_type": "sapo"}, {"surrogate": "sapo", "normalisation": "sequence"}),
    "gspo": Case(
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"surrogate": "gspo", "normalisation": "sequence"},
    ),
    "luspo": Case(
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"surrogate": "gspo", "normalisation": "sum"},
    ),
}


def config_of(case: Case, beta: float, micro_batch_rows: int) -> TrainConfig:
    algorithm = {
        "type": "grpo",
        **(
            {}
            if case.algorithm.get("surrogate") in ("cispo", "sapo")
            else {"clip_low": LOW, "clip_high": HIGH}
        ),
        "importance_correction": "none",
        "sequence_mask_band": None,
        "kl_coefficient": beta,
        "kl_estimator": "k3",
        "entropy_coefficient": case.entropy,
        **case.algorithm,
    }
    return train_config(
        rollout={"max_completion_tokens": MAX_TOKENS},
        algorithm=algorithm,
        learner={"max_grad_norm": 1e9, "micro_batch_rows": micro_batch_rows},
    )


@functools.cache
def groups() -> tuple[ScoredGroup, ...]:
    """Advantages that float32 holds exactly, both signs and 0; tokens and sequences on both sides of every bound."""
    ratios = {
        0: {
            0: (0.5, -0.4),
            1: (-0.5, 0.9, -0.6),
            2: (0.9, 0.1, 0.6, -0.1),
            3: (0.6, 0.3, 0.5, 0.1, 0.2, 0.7),
        },
        1: {0: (0.1,), 1: (-0.3, 0.6, 0.0, -0.2, 0.5), 3: (-0.4, -0.6, 0.1)},
        2: {2: (0.6, 0.5, -0.9, 0.4, -0.7)},
    }
    return (
        with_ratios(random_group(0, [1, 0, 0, 1], lengths=[2, 3, 4, 6]), ratios[0]),
        with_ratios(random_group(1, [1, 1, 1, 0], lengths=[1, 5, 2, 3]), ratios[1]),
        with_ratios(random_group(2, [1, 1, 1, 1], lengths=[2, 1, 5, 3]), ratios[2]),
    )


ADVANTAGES_B = torch.tensor([0.5, -0.5, -0.5, 0.5, 0.25, 0.25, 0.25, -0.75, 0, 0, 0, 0], dtype=torch.float64)


@dataclass
class Batch:
    """The batch as padded float64 tensors, with the log-probs of a model in float64."""

    parameters: list[torch.nn.Parameter]
    mask: Tensor
    policy: Tensor
    entropy: Tensor
    reference: Tensor
    rollout: Tensor


@functools.cache
def forward() -> Batch:
    """Plain forward passes, one per completion."""
    model = build_policy().double()
    pairs = [(g.group.prompt_token_ids, c) for g in groups() for c in g.group.completions]
    width = max(len(completion.token_ids) for _, completion in pairs)

    def padded(rows: list[Tensor]) -> Tensor:
        return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])

    def entropy(prompt: Any, answer: Any) -> Tensor:
        tokens = torch.tensor([*prompt.tolist(), *answer.tolist()])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        return torch.distributions.Categorical(logits=logits).entropy()

    model.set_adapter(REFERENCE)
    with torch.no_grad():
        reference = padded([token_logprobs(model, p, c.token_ids, 1.0) for p, c in pairs]).float().double()
    model.set_adapter(POLICY)
    return Batch(
        parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        mask=padded([torch.ones(len(c.token_ids), dtype=torch.bool) for _, c in pairs]),
        policy=padded([token_logprobs(model, p, c.token_ids, 1.0) for p, c in pairs]),
        entropy=padded([entropy(p, c.token_ids) for p, c in pairs]),
        reference=reference,
        rollout=padded([torch.from_numpy(c.rollout_logprobs).double() for _, c in pairs]),
    )


def transcribed(case: Case, beta: float, batch: Batch, rows: slice, num_micro_batches: int) -> Tensor:
    """TRL's formulas (version 1.16) for one micro-batch."""
    mask, policy, advantages = batch.mask[rows].double(), batch.policy[rows], ADVANTAGES_B[rows][:, None]
    rollout, reference, loss_type = batch.rollout[rows], batch.reference[rows], case.trl["loss_type"]
    old = policy.detach() if case.own_start else rollout
    log_ratio = policy - old
    if case.trl.get("importance_sampling_level") == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1)).unsqueeze(-1)
    ratio = torch.exp(log_ratio)
    if loss_type == "cispo":
        loss = -torch.clamp(ratio, max=CAP).detach() * advantages * policy
    elif loss_type == "sapo":
        tau = torch.where(advantages > 0, 1.0, 1.05)
        loss = -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages
    else:
        inside = torch.clamp(ratio, 1 - LOW, 1 + HIGH)
        ratio = torch.clamp(ratio, max=case.trl.get("delta"), min=0)
        loss = -torch.min(ratio * advantages, inside * advantages)
    if case.own_start:
        loss = loss * torch.clamp(torch.exp(old - rollout), max=CAP)
    if beta:
        loss = loss + beta * (torch.exp(reference - policy) - (reference - policy) - 1)
    if loss_type in ("grpo", "sapo"):
        value = ((loss * mask).sum(-1) / mask.sum(-1)).mean() / num_micro_batches
    elif loss_type == "luspo":
        value = (loss * mask).sum(-1).mean() / num_micro_batches
    elif loss_type == "dr_grpo":
        value = (loss * mask).sum() / (len(mask) * MAX_TOKENS) / num_micro_batches
    else:  # bnpo, dapo, cispo: by the tokens of the whole batch
        value = (loss * mask).sum() / batch.mask.sum()
    return value - case.entropy * (batch.entropy[rows] * mask).sum() / mask.sum()


def of_trl(case: Case, beta: float, batch: Batch, rows: slice, num_micro_batches: int) -> Tensor:
    """TRL's own function on one micro-batch."""
    policy, rollout = batch.policy[rows], batch.rollout[rows]
    old = policy.detach() if case.own_start else rollout
    tokens = torch.ones_like(policy, dtype=torch.long)
    inputs = {
        "prompt_ids": tokens[:, :1],
        "prompt_mask": tokens[:, :1],
        "completion_ids": tokens,
        "completion_mask": batch.mask[rows].long(),
        "advantages": ADVANTAGES_B[rows],
        "old_per_token_logps": old,
        "ref_per_token_logps": batch.reference[rows],
        "importance_sampling_ratio": torch.clamp(torch.exp(old - rollout), max=CAP),
        "num_items_in_batch": batch.mask.sum().double(),
    }
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, batch.entropy[rows], None),
        loss_type=case.trl["loss_type"],
        importance_sampling_level=case.trl.get("importance_sampling_level", "token"),
        epsilon_low=LOW,
        epsilon_high=case.trl.get("epsilon_high", HIGH),
        beta=beta,
        max_completion_length=MAX_TOKENS,
        args=SimpleNamespace(
            delta=case.trl.get("delta"),
            use_bias_correction_kl=False,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            steps_per_generation=num_micro_batches,
        ),
        current_gradient_accumulation_steps=num_micro_batches,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=case.own_start,
        vllm_importance_sampling_correction=case.own_start,
        use_adaptive_entropy=False,
        entropy_coef=case.entropy,
        _entropy_bonus_enabled=case.entropy > 0,
        _metrics={"train": defaultdict(list)},
    )
    return trainer_class()._compute_loss(trainer, None, inputs)


@functools.cache
def trainer_class() -> Any:
    """GRPOTrainer, imported as if there were no vLLM: TRL would load it (10 s), and refuses most versions."""
    pytest.importorskip("trl", reason="TRL is not installed: run make setup")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)  # type: ignore[arg-type]  # None means: cannot be imported
        return pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer


@pytest.mark.parametrize("source", [transcribed, of_trl], ids=lambda source: source.__name__)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("name", CASES)
def test_learner_step_equals_trl(name: str, beta: float, source: Callable[..., Tensor]) -> None:
    case = CASES[name]
    batch = forward()
    for halves in ([slice(0, 12)], [slice(0, 6), slice(6, 12)])[: 1 + case.halves]:
        expected = sum(
            (source(case, beta, batch, rows, len(halves)) for rows in halves),
            torch.zeros((), dtype=torch.float64),
        )
        expected_gradients = torch.autograd.grad(expected, batch.parameters, retain_graph=True)
        assert max(float(gradient.abs().max()) for gradient in expected_gradients) > 0.01
        learner = build_learner(config_of(case, beta, 5 if len(halves) == 2 else 16), build_policy().double())
        metrics = learner.step(as_batch(groups()))
        assert metrics["loss"] == pytest.approx(float(expected.detach()), rel=0, abs=TOLERANCE)
        for parameter, gradient in zip(learner.parameters, expected_gradients, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=TOLERANCE)


def test_batch_of_the_parity_tests_reaches_every_branch() -> None:
    batch = forward()
    log_ratio, advantages = batch.policy.detach() - batch.rollout, ADVANTAGES_B
    sequence_ratio_B = sequence_log_ratio(log_ratio, batch.mask)[:, 0].exp()
    for ratio, of_ratio in (
        (log_ratio.exp()[batch.mask], advantages[:, None].expand_as(batch.mask)[batch.mask]),
        (sequence_ratio_B, advantages),
    ):
        assert ((ratio > 1 + HIGH) & (of_ratio > 0)).any() and ((ratio < 1 - LOW) & (of_ratio < 0)).any()
        assert ((ratio > 1 - LOW) & (ratio < 1 + HIGH) & (of_ratio != 0)).any()
    assert ((log_ratio.exp() > DUAL) & batch.mask & (advantages < 0)[:, None]).any()
    assert ((log_ratio.exp() > CAP) & batch.mask & (advantages > 0)[:, None]).any()


def test_sapo_temperatures_default_to_trl() -> None:
    config = inspect.getmodule(trainer_class()).GRPOConfig.__dataclass_fields__  # type: ignore[union-attr]
    ours = inspect.signature(soft_gated_loss).parameters
    assert config["sapo_temperature_pos"].default == ours["temperature_positive"].default
    assert config["sapo_temperature_neg"].default == ours["temperature_negative"].default
