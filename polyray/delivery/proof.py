"""Does an engine serve the version it was given? A decision as a value.

Called by the coordinator for every worker and every version. No trust is put in the worker's word: what
counts are the numbers its engine gives for tokens whose log-probs the learner knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyray.config.delivery import Tolerance
from polyray.delivery.adapter import Probe
from polyray.errors import PolicyNotDelivered
from polyray.types import PolicyVersion

CLEARLY = 5.0
"""Standard errors: of 3 million sound deliveries one is refused."""


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
        DeliveryProof(worker="rollout-0", policy=PolicyVersion(...), max_difference=8e-7, mean_difference=1e-7,
        change=0.03)
    """

    worker: str
    policy: PolicyVersion
    max_difference: float
    """Largest |engine - learner| over the probe tokens, in nats."""
    mean_difference: float
    change: float | None
    """Largest |this version - the one before| on the same tokens, by the learner."""


def check_delivery(
    ack: DeliveryAck, policy: PolicyVersion, probe: Probe, tolerance: Tolerance
) -> DeliveryProof:
    """Raises PolicyNotDelivered unless the acknowledged numbers are this version's.

    They must lie within the tolerance of this version, and not clearly nearer to the one before. Where the learner
    hardly moved (a tiny step, a batch without signal) nothing is clear, and the old weights serve the new version.
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
    worst, mean = float(difference.max()), float(difference.mean())
    judged = worst if tolerance.judged == "largest" else mean
    before = None if probe.previous is None else float(np.abs(ack.logprobs - probe.previous).mean())
    stale = probe.previous is not None and is_nearer(ack.logprobs, probe.previous, probe.logprobs)
    if judged > tolerance.nats or stale:
        raise PolicyNotDelivered(
            f"{who}: its log-probs of the probe tokens differ from the learner's by {judged:.3g} "
            f"({tolerance.judged}), tolerance {tolerance.nats:.3g}"
            + ("; it still serves the version before" if before is not None and before < mean else "")
        )
    change = None if probe.previous is None else float(np.abs(probe.logprobs - probe.previous).max())
    return DeliveryProof(ack.worker, policy, worst, mean, change)


def is_nearer(values_N: np.ndarray, to_N: np.ndarray, than_to_N: np.ndarray) -> bool:
    """Whether `values` are `to` rather than `than_to`, up to noise, by CLEARLY standard errors of a sign test.

    [N] each. A token says which of the two its value is nearer to, and all count alike: noise in 16 bits is heavy in
    the tails, and where it is all that separates the two, half of the tokens say the one and half the other.
    """
    nearer_N = np.sign(np.abs(values_N - than_to_N) - np.abs(values_N - to_N))
    return float(nearer_N.sum()) > CLEARLY * float(np.count_nonzero(nearer_N)) ** 0.5
