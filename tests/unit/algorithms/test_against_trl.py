"""Our losses and their gradients against TRL's GRPOTrainer on the same float64 tensors; skipped without TRL.

TRL's own `_compute_loss` runs, on a stand-in for the trainer that holds the settings it reads and returns the given
log-probs. Where TRL has other names: its "epsilon_high" of CISPO is our cap, its "delta" our dual clip, its level
"sequence" GSPO; its KL is k3.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polyray.algorithms import (
    aggregate,
    cispo_loss,
    clipped_surrogate,
    k3,
    sequence_log_ratio,
    soft_gated_loss,
)
from polyray.algorithms.losses import Normalisation

MAX_TOKENS = 9
"""TRL's max_completion_length; longer than the padded width."""
LENGTHS = torch.tensor([7, 3, 5, 1, 6, 4])
MASK_BT = torch.arange(7)[None] < LENGTHS[:, None]
ADVANTAGES_B = torch.tensor([1.0, -1.5, 0.5, -0.3, 2.0, 0.0], dtype=torch.float64)
LOW, HIGH, CAP, DUAL = 0.2, 0.28, 1.5, 2.0
SEED = 1


def clipped(policy: Tensor, old: Tensor) -> Tensor:
    return clipped_surrogate(policy, old, ADVANTAGES_B, clip_low=LOW, clip_high=HIGH)[0]


def dual_clipped(policy: Tensor, old: Tensor) -> Tensor:
    return clipped_surrogate(policy, old, ADVANTAGES_B, clip_low=LOW, clip_high=HIGH, dual_clip=DUAL)[0]


def sequence_clipped(policy: Tensor, old: Tensor) -> Tensor:
    return clipped_surrogate(policy, old, ADVANTAGES_B, clip_low=LOW, clip_high=HIGH, sequence_mask=MASK_BT)[
        0
    ]


def cispo(policy: Tensor, old: Tensor) -> Tensor:
    return cispo_loss(policy, old, ADVANTAGES_B, cap=CAP)[0]


def sapo(policy: Tensor, old: Tensor) -> Tensor:
    return soft_gated_loss(policy, old, ADVANTAGES_B)


CASES: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], Tensor], Normalisation]] = {
    "grpo": ({"loss_type": "grpo"}, clipped, "sequence"),
    "dr_grpo": ({"loss_type": "dr_grpo"}, clipped, "constant"),
    "dapo": ({"loss_type": "dapo"}, clipped, "token"),
    "dual clip": ({"loss_type": "dapo", "delta": DUAL}, dual_clipped, "token"),
    "cispo": ({"loss_type": "cispo", "epsilon_high": CAP}, cispo, "token"),
    "sapo": ({"loss_type": "sapo"}, sapo, "sequence"),
    "gspo": ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, sequence_clipped, "sequence"),
}


@pytest.fixture(scope="module")
def trainer_class() -> Iterator[Any]:
    """GRPOTrainer, imported as if there were no vLLM: TRL would load it (10 s), and refuses most versions."""
    pytest.importorskip("trl", reason="TRL is not installed: run make setup")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)  # type: ignore[arg-type]  # None means: cannot be imported
        yield pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer


def random_logprobs() -> tuple[Tensor, Tensor, Tensor]:
    """(policy, old, reference), far enough apart that tokens and sequences leave the clip range on both sides."""
    generator = torch.Generator().manual_seed(SEED)
    old = -2 * torch.rand(6, 7, generator=generator, dtype=torch.float64)
    policy, reference = (
        old + 0.8 * torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return policy.requires_grad_(), old, reference


def stand_in(
    settings: dict[str, Any], beta: float, policy: Tensor, num_micro_batches: int
) -> SimpleNamespace:
    """What `_compute_loss` reads of a trainer, at TRL's defaults but for `settings`."""
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, torch.zeros_like(policy), None),
        loss_type=settings["loss_type"],
        importance_sampling_level=settings.get("importance_sampling_level", "token"),
        epsilon_low=LOW,
        epsilon_high=settings.get("epsilon_high", HIGH),
        beta=beta,
        max_completion_length=MAX_TOKENS,
        args=SimpleNamespace(
            delta=settings.get("delta"),
            use_bias_correction_kl=False,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            steps_per_generation=num_micro_batches,
        ),
        current_gradient_accumulation_steps=num_micro_batches,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )


def loss_of_trl(
    trainer_class: Any,
    settings: dict[str, Any],
    beta: float,
    tensors: tuple[Tensor, Tensor, Tensor],
    rows: slice,
) -> Tensor:
    """TRL's loss of the rows, a half of its batch or all of it."""
    policy, old, reference = (tensor[rows] for tensor in tensors)
    tokens = torch.ones_like(policy, dtype=torch.long)
    inputs = {
        "prompt_ids": tokens[:, :1],
        "prompt_mask": tokens[:, :1],
        "completion_ids": tokens,
        "completion_mask": MASK_BT[rows].long(),
        "advantages": ADVANTAGES_B[rows],
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": LENGTHS.sum().double(),
    }
    trainer = stand_in(settings, beta, policy, num_micro_batches=len(MASK_BT) // len(policy))
    return trainer_class._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(trainer_class, name: str, beta: float) -> None:
    settings, per_token, normalisation = CASES[name]
    policy, old, reference = tensors = random_logprobs()
    loss_BT = per_token(policy, old) + beta * k3(policy, reference)
    loss = aggregate(
        loss_BT,
        MASK_BT,
        normalisation,
        max_tokens=MAX_TOKENS,
        num_sequences=len(MASK_BT),
        num_tokens=int(MASK_BT.sum()),
    )
    (gradient,) = torch.autograd.grad(loss, policy)
    for halves in ([slice(0, 6)], [slice(0, 3), slice(3, 6)]):
        expected = sum(
            (loss_of_trl(trainer_class, settings, beta, tensors, rows) for rows in halves),
            torch.zeros((), dtype=torch.float64),
        )
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        (expected_gradient,) = torch.autograd.grad(expected, policy)
        assert expected_gradient.abs().max() > 0.01
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_the_tensors_reach_every_branch() -> None:
    policy, old, _ = random_logprobs()
    sequence_ratio_B = sequence_log_ratio(policy - old, MASK_BT)[:, 0].exp()
    for ratio, advantages in (
        ((policy - old).exp()[MASK_BT], ADVANTAGES_B[:, None].expand_as(MASK_BT)[MASK_BT]),
        (sequence_ratio_B, ADVANTAGES_B),
    ):
        assert ((ratio > 1 + HIGH) & (advantages > 0)).any() and ((ratio < 1 - LOW) & (advantages < 0)).any()
        assert ((ratio > 1 - LOW) & (ratio < 1 + HIGH) & (advantages != 0)).any()
    token_ratio = (policy - old).exp()
    assert ((token_ratio > DUAL) & MASK_BT & (ADVANTAGES_B < 0)[:, None]).any()
    assert ((token_ratio > CAP) & MASK_BT & (ADVANTAGES_B > 0)[:, None]).any()


def test_our_sapo_temperatures_are_trls(trainer_class) -> None:
    config = inspect.getmodule(trainer_class).GRPOConfig.__dataclass_fields__  # type: ignore[union-attr]
    ours = inspect.signature(soft_gated_loss).parameters
    assert config["sapo_temperature_pos"].default == ours["temperature_positive"].default
    assert config["sapo_temperature_neg"].default == ours["temperature_negative"].default
