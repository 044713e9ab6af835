"""Verification that an engine serves the version it was given, as a value.

Called by the coordinator for every worker and every version. The worker's word does not count: only the numbers that
its engine gives for tokens with log-probs known to the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyray.config.delivery import Tolerance
from polyray.errors import WeightSyncMismatch
from polyray.models.adapter import Probe
from polyray.types import PolicyVersion

CLEARLY = 5.0
"""Standard errors: of 3 million sound deliveries one is refused."""
SCALE_ERROR = 0.25
"""Largest apparent scaling of an adapter's change; an alpha that is wrong by 2 is off by .5 or 1."""
RESIDUAL = 0.25
MIN_TOKENS = 26
"""Tokens below which neither a sign test of CLEARLY standard errors nor a median says anything."""


@dataclass(frozen=True, slots=True)
class SyncAck:
    """A worker's acknowledgement after loading a version.

    Example:
        SyncAck(worker="rollout-0", sha256="9f86...", logprobs=np.array([-.5], np.float32), load_s=.02,
        probe_s=.01)
    """

    worker: str
    sha256: str
    logprobs: np.ndarray
    """The engine's log-probs of the probe tokens, laid out like `Probe.logprobs`."""
    load_s: float
    probe_s: float


@dataclass(frozen=True, slots=True)
class SyncProof:
    """A delivery that was checked.

    Example:
        SyncProof(worker="rollout-0", policy=PolicyVersion(...), max_difference=8e-7, mean_difference=1e-7,
        change=0.03)
    """

    worker: str
    policy: PolicyVersion
    max_difference: float
    """Largest |engine - learner| over the probe tokens, in nats."""
    mean_difference: float
    change: float | None
    """Largest |this version - the one before| on the same tokens, by the learner."""


def check_delivery(ack: SyncAck, policy: PolicyVersion, probe: Probe, tolerance: Tolerance) -> SyncProof:
    """Raises WeightSyncMismatch unless the acknowledged numbers are this version's.

    They must be within the tolerance of this version, not clearly nearer to the version served before or to the base,
    and have moved from the base as far as this version has. If the learner hardly moved (a tiny step, a batch
    without signal), the versions cannot be told apart, and the old weights serve the new version.
    """
    distinct_N = distinct_tokens(probe.sequences)
    who = f"worker {ack.worker} does not serve {policy.name}"
    if ack.sha256 != policy.sha256:
        raise WeightSyncMismatch(
            f"{who}: it acknowledged sha256 {ack.sha256[:12]}, expected {policy.sha256[:12]}"
        )
    if ack.logprobs.shape != probe.logprobs.shape:
        raise WeightSyncMismatch(
            f"{who}: {ack.logprobs.size} probe log-probs came back, expected {probe.logprobs.size}"
        )
    difference = np.abs(ack.logprobs - probe.logprobs)
    if not np.isfinite(difference).all():
        raise WeightSyncMismatch(f"{who}: its log-probs of the probe tokens are not finite")
    worst, mean = float(difference.max()), float(difference.mean())
    judged = worst if tolerance.judged == "largest" else mean
    spread = float(np.abs(probe.logprobs - np.median(probe.logprobs)).mean())
    limit = max(tolerance.nats, tolerance.share * spread)
    served = _served_instead(ack.logprobs, probe, distinct_N)
    if judged > limit or served:
        served = served or _nearest(ack.logprobs, probe)
        raise WeightSyncMismatch(
            f"{who}: its log-probs of the probe tokens differ from the learner's by {judged:.3g} "
            f"({tolerance.judged}), tolerance {limit:.3g}" + (f"; it {served}" if served else "")
        )
    change = None if probe.previous is None else float(np.abs(probe.logprobs - probe.previous).max())
    return SyncProof(ack.worker, policy, worst, mean, change)


def distinct_tokens(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """[N] bool, laid out like `Probe.logprobs`: whether a token does not repeat one of an earlier sequence.

    Prompts begin alike (a system prompt, a template). The shared part is computed alike, noise included, so it counts
    as evidence only once.
    """
    seen: set[tuple[int, ...]] = set()
    distinct: list[bool] = []
    for sequence in sequences:
        beginnings = [tuple(sequence[: end + 1]) for end in range(1, len(sequence))]
        distinct += [beginning not in seen for beginning in beginnings]
        seen.update(beginnings)
    return np.array(distinct, bool)


def _served_instead(logprobs_N: np.ndarray, probe: Probe, distinct_N: np.ndarray) -> str | None:
    """Describes what the engine clearly serves instead of this version; None where nothing is clear."""
    values, version = logprobs_N[distinct_N], probe.logprobs[distinct_N]
    for words, other_N in _others(probe).items():
        if is_nearer(values, other_N[distinct_N], version):
            return words
    scale = None if probe.base is None else served_scale(values, probe.base[distinct_N], version)
    if scale is not None and abs(scale - 1) > SCALE_ERROR:
        return f"serves {scale:.2g} times the adapter's change"
    return None


def _nearest(logprobs_N: np.ndarray, probe: Probe) -> str | None:
    """Names the alternative that a refused engine is nearer to than to this version, if any."""
    means = {words: float(np.abs(logprobs_N - other_N).mean()) for words, other_N in _others(probe).items()}
    mean = float(np.abs(logprobs_N - probe.logprobs).mean())
    return min(
        (words for words in means if means[words] < mean), key=lambda words: means[words], default=None
    )


def _others(probe: Probe) -> dict[str, np.ndarray]:
    others = {
        "still serves the version before": probe.previous,
        "serves the base without an adapter": probe.base,
    }
    return {words: other_N for words, other_N in others.items() if other_N is not None}


def served_scale(values_N: np.ndarray, base_N: np.ndarray, version_N: np.ndarray) -> float | None:
    """Movement of `values` from `base`, relative to `version`; None if noise hides it.

    [N] each. Only the tokens that the adapter moves most are looked at, and medians keep the tails of 16-bit noise
    out. If the residuals are below RESIDUAL of the change, noise in `base` and `version` biases the answer by less
    than SCALE_ERROR / 4.
    """
    change_N = version_N - base_N
    most = np.abs(change_N) >= np.quantile(np.abs(change_N), 0.5)
    if most.sum() < MIN_TOKENS or not (size := float(np.median(np.abs(change_N[most])))):
        return None
    scale = float(np.median((values_N - base_N)[most] / change_N[most]))
    residual = float(np.median(np.abs(values_N - base_N - scale * change_N)[most]))
    return scale if residual < RESIDUAL * size else None


def is_nearer(values_N: np.ndarray, to_N: np.ndarray, than_to_N: np.ndarray) -> bool:
    """Whether `values` are `to` rather than `than_to`, up to noise, by CLEARLY standard errors of a sign test.

    [N] each. A token says which of the two its value is nearer to, and all count alike: noise in 16 bits is heavy in
    the tails, and where it is all that separates the two, half of the tokens say the one and half the other.
    """
    nearer_N = np.sign(np.abs(values_N - than_to_N) - np.abs(values_N - to_N))
    return float(nearer_N.sum()) > CLEARLY * float(np.count_nonzero(nearer_N)) ** 0.5
