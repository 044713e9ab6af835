"""A ledger and what a coordinator does with it, step by step."""

from __future__ import annotations

from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.types import PolicyVersion


def new_ledger(batch: int = 2, max_staleness: int = 0, total_steps: int = 100) -> RolloutBuffer[str]:
    ledger: RolloutBuffer[str] = RolloutBuffer(batch, max_staleness, total_steps)
    ledger.restore(None)
    return ledger


def finish(ledger: RolloutBuffer[str], group_id: int, version: int, attempt: int = 1) -> None:
    policy = PolicyVersion(attempt, version, "0" * 64)
    ledger.finished(Finished(group_id, policy, f"handle-{group_id}", 8, 0.0, 0.0))


def start_all(ledger: RolloutBuffer[str], served_version: int) -> list[int]:
    started: list[int] = []
    while ledger.may_start(served_version):
        started.append(ledger.next_id())
    return started


def cut(ledger: RolloutBuffer[str], step: int) -> list[int] | None:
    batch = ledger.take_batch(step)
    return None if batch is None else [item.group_id for item in batch.groups]


def do_step(ledger: RolloutBuffer[str], step: int) -> list[int]:
    """One synchronous step: everything that may start runs, is consumed and published."""
    for group_id in start_all(ledger, step):
        finish(ledger, group_id, step, ledger.attempt)
    batch = cut(ledger, step)
    assert batch is not None
    ledger.published(step + 1)
    return batch
