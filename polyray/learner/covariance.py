"""Choose the tokens of Clip-Cov and KL-Cov among all tokens of an update, over all micro-batches and ranks.

The choice needs every token's covariance before the first backward pass, so it costs one more forward pass, without
gradients. Called by the learner step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from peft import PeftModel

from polyray.algorithms import exploration
from polyray.config.loss import LossSpec
from polyray.learner.batch import RowBatch
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.learner.reduce import gather, rank
from polyray.learner.token_loss import tokens_in_loss
from polyray.models.logprobs import completion_logprobs


def with_chosen_tokens(
    model: PeftModel,
    batches: Sequence[RowBatch],
    spec: LossSpec,
    temperature: float,
    seed: tuple[int, ...],
) -> list[RowBatch]:
    """The micro-batches of one update on this rank, `chosen_BT` set; every rank must call it.

    `seed` belongs to the update. A token's random number follows from it, the sample and the token's position, so
    neither micro-batches nor ranks change the choice.
    """
    masks, columns = [], []
    with torch.no_grad():
        for batch in in_lockstep(model, batches):
            if batch is None:
                dummy_pass(model)
                continue
            logprobs_BT, _ = completion_logprobs(model, batch.rows, temperature)
            in_loss_BT = tokens_in_loss(batch, logprobs_BT, spec)
            advantages_BT = batch.advantages_B[:, None].expand_as(logprobs_BT)
            values = (
                logprobs_BT[in_loss_BT],
                advantages_BT[in_loss_BT],
                _draws(batch, seed)[in_loss_BT.cpu()],
            )
            columns.append(np.stack([value.double().cpu().numpy() for value in values]))
            masks.append(in_loss_BT)
    own_3N = np.concatenate([np.empty((3, 0)), *columns], axis=1)
    by_rank = gather(own_3N)
    logprobs_N, advantages_N, draws_N = np.concatenate(by_rank, axis=1)
    covariances_N = exploration.token_covariances(logprobs_N, advantages_N)
    if spec.covariance == "clip_cov":
        low, high = spec.covariance_band
        chosen_N = exploration.clip_cov_tokens(
            covariances_N, draws_N, share=spec.covariance_share, low=low, high=high
        )
    else:
        chosen_N = exploration.kl_cov_tokens(covariances_N, draws_N, share=spec.covariance_share)
    start = sum(part.shape[1] for part in by_rank[: rank()])
    found: list[RowBatch] = []
    for batch, in_loss_BT in zip(batches, masks, strict=True):
        end = start + int(in_loss_BT.sum())
        chosen_BT = torch.zeros_like(in_loss_BT)
        chosen_BT[in_loss_BT] = torch.from_numpy(chosen_N[start:end]).to(in_loss_BT.device)
        found.append(replace(batch, chosen_BT=chosen_BT))
        start = end
    return found


def _draws(batch: RowBatch, seed: tuple[int, ...]) -> torch.Tensor:
    """[B, T] uniform random numbers."""
    width = batch.rollout_logprobs_BT.shape[1]
    rows = [np.random.default_rng((*seed, *sample_id)).random(width) for sample_id in batch.sample_ids]
    return torch.from_numpy(np.stack(rows))
