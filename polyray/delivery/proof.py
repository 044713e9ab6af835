"""Does an engine serve the version it was given? Probe log-probabilities, and a decision as a value.

Called by the coordinator for every worker and every version. No trust is put in the worker's word: what
counts are the numbers its engine gives for tokens whose log-probs the learner knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polyray.delivery.adapter import Probe
from polyray.errors import PolicyNotDelivered
from polyray.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class DeliveryAck:
    """What a worker says after loading a version.

    Example:
        DeliveryAck(worker="rollout-0", sha256="9f86...", logprobs=np.array([-.5], np.float32), load_s=.02,
        probe_s=.01)
    """

    worker: str
    sha256: str
    logprobs: np.ndarray
    """The engine's log-probs of the probe tokens, laid out like `Probe.logprobs`."""
    load_s: float
    probe_s: float


@dataclass(frozen=True, slots=True)
class DeliveryProof:
    """A delivery that was checked.

    Example:
        DeliveryProof(worker="rollout-0", policy=PolicyVersion(...), max_difference=8e-7, change=0.03)
    """

    worker: str
    policy: PolicyVersion
    max_difference: float
    """Largest |engine - learner| over the probe tokens, in nats."""
    change: float | None
    """Largest |this version - the one before| on the same tokens, by the learner."""


def check_delivery(ack: DeliveryAck, policy: PolicyVersion, probe: Probe, tolerance: float) -> DeliveryProof:
    """Raises PolicyNotDelivered unless the acknowledged numbers are this version's.

    Within a tolerance of this version is also away from the previous one wherever the learner moved by more than
    two tolerances; where it did not (a tiny step, a batch without signal) the old weights serve the new version.
    """
    who = f"worker {ack.worker} does not serve {policy.name}"
    if ack.sha256 != policy.sha256:
        raise PolicyNotDelivered(
            f"{who}: it acknowledged sha256 {ack.sha256[:12]}, expected {policy.sha256[:12]}"
        )
    if ack.logprobs.shape != probe.logprobs.shape:
        raise PolicyNotDelivered(
            f"{who}: {ack.logprobs.size} probe log-probs came back, expected {probe.logprobs.size}"
        )
    difference = np.abs(ack.logprobs - probe.logprobs)
    if not np.isfinite(difference).all():
        raise PolicyNotDelivered(f"{who}: its log-probs of the probe tokens are not finite")
    worst = float(difference.max())
    if worst > tolerance:
        raise PolicyNotDelivered(
            f"{who}: its log-probs of the probe tokens differ from the learner's by {worst:.3g}, "
            f"tolerance {tolerance:.3g}{_looks_like_previous(ack, probe, tolerance)}"
        )
    change = None if probe.previous is None else float(np.abs(probe.logprobs - probe.previous).max())
    return DeliveryProof(ack.worker, policy, worst, change)


def _looks_like_previous(ack: DeliveryAck, probe: Probe, tolerance: float) -> str:
    if probe.previous is not None and float(np.abs(ack.logprobs - probe.previous).max()) <= tolerance:
        return "; it still serves the version before"
    return ""


@torch.no_grad()
def probe_logprobs(
    model: torch.nn.Module, sequences: Sequence[Sequence[int]], batch_rows: int = 64
) -> np.ndarray:
    """Log-probs [sum(len - 1)] float32 of each sequence's tokens from the second on, at temperature 1, eval
    mode."""
    was_training = model.training
    if was_training:  # switching visits every module
        model.eval()
    device = next(model.parameters()).device
    parts: list[np.ndarray] = []
    for start in range(0, len(sequences), batch_rows):
        rows = sequences[start : start + batch_rows]
        width = max(len(row) for row in rows)
        tokens = torch.zeros(len(rows), width, dtype=torch.long, device=device)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        # Right padding needs no mask: a causal model's real tokens never see what comes after them.
        logprobs = model(input_ids=tokens, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        chosen = logprobs.gather(2, tokens[:, 1:, None])[..., 0].cpu().numpy()
        parts.extend(chosen[i, : len(row) - 1] for i, row in enumerate(rows))
    if was_training:
        model.train()
    return np.concatenate(parts).astype(np.float32)
