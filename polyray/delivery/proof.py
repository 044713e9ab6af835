"""Does an engine serve the version it was given? A decision as a value.

Called by the coordinator for every worker and every version. No trust is put in the worker's word: what
counts are the numbers its engine gives for tokens whose log-probs the learner knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
