"""Plain baseline of polyray's learner: padded rows, all logits, one softmax over them.

As in most trainers: a [rows, time, vocabulary] tensor for a micro batch of completions that are padded to the
longest. Used by logprob_memory.py and padded_learner.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from polyray.models.logprobs import Rows


def padded_logprobs(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """log pi(token) [B, T] float32, 0 where padded, of rows with prompts of equal length.

    Logits are computed for completion tokens only.
    """
    mask_BT, prompt = rows.mask_BT, int(rows.prompt_lengths_B[0])
    ids_BL = rows.input_ids_BL[:, : prompt + mask_BT.shape[1]]
    seen_BL = torch.cat([mask_BT.new_ones(len(mask_BT), prompt), mask_BT], dim=1)
    logits_BSV = model(
        input_ids=ids_BL,
        attention_mask=seen_BL.long(),
        logits_to_keep=mask_BT.shape[1] + 1,
        use_cache=False,
    ).logits
    logprobs_BTV = logits_BSV[:, :-1].float().log_softmax(-1)
    logprobs_BT = logprobs_BTV.gather(2, ids_BL[:, prompt:, None])[..., 0]
    return torch.where(mask_BT, logprobs_BT, 0.0)


def padded_rows(groups: Sequence[Any]) -> tuple[Rows, torch.Tensor]:
    """(all completions of some scored groups, each padded to the longest, and their rewards less the group's mean
    [B])."""
    from polyray.learner.batch import Row, build_row_batch

    rows = [
        Row(
            group.group.prompt_token_ids, completion, group.group.group_id, index, watched=False, trained=True
        )
        for group in groups
        for index, completion in enumerate(group.group.completions)
    ]
    for row, value in zip(rows, (v for g in groups for v in g.rewards_G - g.rewards_G.mean()), strict=True):
        row.advantage = float(value)
    batch = build_row_batch(rows, torch.device("cpu"))
    return batch.rows, batch.advantages_B
