"""Log-probs that stay fixed while a batch is trained on: those of the warm start and of the policy before it.

Computed once per batch, without gradients, only for what the configuration needs; kept on the rows. The reference
is measured on a few groups where the KL is only watched. Called by the learner step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from peft import PeftModel

from polyray.config.run import TrainConfig
from polyray.learner.advantages import Measured
from polyray.learner.batch import Row, build_row_batch, micro_batches
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.models.logprobs import completion_logprobs
from polyray.models.lora import reference_active


def watched_groups(step: int, num_groups: int, group_size: int) -> frozenset[int]:
    """Places in a batch of the groups whose KL is measured: as many completions as the batch has groups.

    Whole groups, because a group's prompt is computed once. The next step takes the next ones.
    """
    count = -(-num_groups // group_size)
    return frozenset((step * count + i) % num_groups for i in range(count))


def compute_reference(
    model: PeftModel, rows_by_group: Sequence[Sequence[Row]], watched: frozenset[int], config: TrainConfig
) -> None:
    """Sets `reference_T`: of all rows where the KL is part of the objective, else of the groups `watched`."""
    every = config.algorithm.kl_coefficient > 0
    chosen = [row for i, rows in enumerate(rows_by_group) if every or i in watched for row in rows]
    for row, logprobs_T in zip(chosen, _logprobs(model, chosen, config, reference=True), strict=True):
        row.reference_T = logprobs_T


def compute_old(model: PeftModel, rows: Sequence[Row], config: TrainConfig) -> None:
    """Sets `proximal_T` of all rows."""
    for row, logprobs_T in zip(rows, _logprobs(model, rows, config, reference=False), strict=True):
        row.proximal_T = logprobs_T


def needs_proximal(config: TrainConfig, num_updates: int) -> bool:
    """Whether the learner needs its own log-probs before the first update.

    Before the first update the policy is its own anchor; stale weights are needed before that.
    """
    algorithm = config.algorithm
    stale = getattr(algorithm, "stale_weights", "token") != "token"
    anchored = algorithm.proximal == "learner" or algorithm.covariance == "kl_cov"
    return stale or (anchored and num_updates > 1)


def measured(rows: Sequence[Row], num_samples: int) -> Measured:
    """Measurements of one group, from its rows; empty completions have 0."""
    kl_G, log_weights_G = np.zeros(num_samples), np.zeros(num_samples)
    for row in rows:
        rollout_T = torch.from_numpy(row.completion.rollout_logprobs).double()
        if row.reference_T is not None:
            kl_G[row.index] = float((rollout_T - row.reference_T.double().cpu()).sum())
        if row.proximal_T is not None:
            log_weights_G[row.index] = float((row.proximal_T.double().cpu() - rollout_T).sum())
    return Measured(kl_G, log_weights_G)


def _logprobs(
    model: PeftModel, rows: Sequence[Row], config: TrainConfig, *, reference: bool
) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    found: list[torch.Tensor] = []
    for part in in_lockstep(model, micro_batches(rows, config.learner)):
        active: AbstractContextManager[object] = reference_active(model) if reference else nullcontext()
        with torch.no_grad(), active:
            if part is None:
                dummy_pass(model)
                continue
            batch = build_row_batch(part, device)
            logprobs_BT, _ = completion_logprobs(model, batch.rows, config.rollout.temperature)
        found += [
            values_T[: len(row.completion.token_ids)] for row, values_T in zip(part, logprobs_BT, strict=True)
        ]
    return found
