"""A learner rank's share of a batch: references to its groups, and the batch's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyray.orchestrator.rollout_buffer import Batch, BufferCounts


@dataclass(frozen=True, slots=True)
class BatchLease:
    """A rank's share of a batch, as references.

    Example:
        BatchLease(step=17, refs=(ref, ref), group_ids=(272, 274), num_groups_total=16, history={"step": 17},
                   counters={"groups_dropped": 0}, timings={})
    """

    step: int
    refs: tuple[Any, ...]
    group_ids: tuple[int, ...]
    """Ids of the groups in `refs`."""
    num_groups_total: int
    history: Mapping[str, Any]
    """The batch's line in ledger.jsonl: every group of all ranks, and what was dropped since the batch before."""
    counters: Mapping[str, float]
    timings: Mapping[str, float]


def lease_of(
    batch: Batch[Any], attempt: int, counts: BufferCounts, waited_since: float, rank: int, world_size: int
) -> BatchLease:
    """This rank's share; `waited_since` is when the learner began to wait, by the clock of the ledger's process."""
    groups = batch.groups
    generated = max(item.generated_at for item in groups)
    scored = max(item.scored_at for item in groups)
    staleness = [batch.step - item.policy.version for item in groups]
    return BatchLease(
        step=batch.step,
        refs=tuple(item.handle for item in groups[rank::world_size]),
        group_ids=tuple(item.group_id for item in groups[rank::world_size]),
        num_groups_total=len(groups),
        history={
            "step": batch.step,
            "attempt": attempt,
            "groups": [item.group_id for item in groups],
            "versions": [item.policy.version for item in groups],
            "dropped": [list(item) for item in batch.dropped],
        },
        counters={
            "groups_used": len(groups),
            "groups_dropped": counts.dropped,
            "groups_filtered": counts.filtered,
            "groups_stale": counts.stale,
            "stale_length_ratio": counts.stale_length_ratio,
            "staleness_mean": sum(staleness) / len(staleness),
        },
        timings={
            "generate_s": max(0.0, generated - waited_since),
            "score_s": max(0.0, scored - max(generated, waited_since)),
        },
    )
