"""Verification that an engine serves the version it was given.

Called for every engine and every version, in training, evaluation and serving. The engine's word does not count: only
the numbers that it gives for tokens with log-probs known to the learner.

float32    engine and learner agree to 5e-5 nats on four tokens of five
16 bits    rounding noise is larger than a small step. The engine is compared with the learner, with its own
           answers under other versions, and with its own noise (polyray/weight_sync/evidence.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from polyray.errors import WeightSyncMismatch
from polyray.models.adapter import Magnified, PolicyUpdate, Probe
from polyray.types import PolicyVersion
from polyray.weight_sync.evidence import distinct_tokens, is_nearer, is_unmoved, typical_size, wrong_scale

EXACT_NATS = 5e-5
"""Largest difference in float32 on EXACT_SHARE of the distinct tokens.

Single tokens say nothing. In a sharp model learner and engine differ by up to 7e-4 nats on one of them, because they
add in another order; on four of five by at most 1e-5."""
EXACT_SHARE = 4 / 5
NOISE_FACTOR = 2.0
"""Limit of the mean difference in 16 bits, in multiples of that of the first version."""
MAGNIFIED_FACTOR = 1.7
"""The same under a magnified adapter, in multiples of the learner's difference from itself at almost equal scales."""
FIRST_SHARE = 0.1
"""Limit for the first version, as a share of the spread of the log-probs over tokens. Noise is 1 to 2 % of it, and
another model differs by about all of it."""


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
    magnified: np.ndarray | None = None
    """The same under the magnified adapter, if the update has one."""


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


@dataclass(frozen=True, slots=True)
class _Answer:
    """Log-probs of one version by both sides.

    Example:
        _Answer(sha256="9f86...", engine_N=np.array([-.51], np.float32), learner_N=np.array([-.5], np.float32))
    """

    sha256: str
    engine_N: np.ndarray
    learner_N: np.ndarray


class SyncVerifier:
    """Verifies engines that hold one base in one dtype, and remembers their answers for the versions to come.

    All engines are of one kind, so the answer of one is evidence about the others.
    """

    def __init__(self, dtype: str) -> None:
        self._is_exact = dtype == "float32"
        self._noise: float | None = None
        """Mean |engine - learner| of the first version, in nats."""
        self._base: _Answer | None = None
        self._last: dict[str, _Answer] = {}
        """Last verified answer of each worker."""

    def check(self, ack: SyncAck, update: PolicyUpdate) -> SyncProof:
        """Raises WeightSyncMismatch unless the acknowledged numbers are this version's.

        In float32 EXACT_SHARE of the tokens agree to EXACT_NATS. In 16 bits the mean difference is at most
        NOISE_FACTOR times that of the first version, and the answer moved from those of other versions and of the
        base. In both, it is not clearly nearer to the version before or to the base, and its change from the base has
        the learner's size. A magnified adapter has to agree as well as the version itself.
        Where the learner hardly moved, versions cannot be told apart, and the old weights serve the new version.
        """
        probe, policy = update.probe, update.policy
        who = f"worker {ack.worker} does not serve {policy.name}"
        _check_form(ack, update, who)
        difference_N = np.abs(ack.logprobs - probe.logprobs)
        if not np.isfinite(difference_N).all():
            raise WeightSyncMismatch(f"{who}: its log-probs of the probe tokens are not finite")
        evidence_N = distinct_tokens(probe.sequences, with_shared=self._is_exact)
        worst, mean = float(difference_N.max()), float(difference_N.mean())
        noise = float(difference_N[evidence_N].mean()) if evidence_N.any() else mean
        if self._is_exact:
            judged = float(np.quantile(difference_N[evidence_N], EXACT_SHARE, method="higher"))
            limit = EXACT_NATS
        else:
            judged, limit = noise, self._noise_limit(probe)
        served = self._served_instead(ack, update, evidence_N)
        if judged > limit or served:
            statistic = "largest on four tokens of five" if self._is_exact else "mean"
            served = served or _nearest(ack.logprobs, probe)
            raise WeightSyncMismatch(
                f"{who}: its log-probs of the probe tokens differ from the learner's by {judged:.3g} "
                f"({statistic}), limit {limit:.3g}" + (f"; it {served}" if served else "")
            )
        if probe.magnified is not None:
            self._check_magnified(ack, probe.magnified, evidence_N, who)
        self._remember(ack, update, noise)
        change = None if probe.previous is None else float(np.abs(probe.logprobs - probe.previous).max())
        return SyncProof(ack.worker, policy, worst, mean, change)

    def forget(self, worker: str) -> None:
        """The worker is gone."""
        self._last.pop(worker, None)

    def _check_magnified(self, ack: SyncAck, probe: Magnified, evidence_N: np.ndarray, who: str) -> None:
        """The learner's own answers at almost equal scales say how large the noise of a magnified adapter is."""
        answer = np.full_like(probe.logprobs, np.nan) if ack.magnified is None else ack.magnified
        noise, own = typical_size((answer - probe.logprobs)[evidence_N]), own_noise(probe, evidence_N)
        limit = MAGNIFIED_FACTOR * own
        if not noise <= limit:  # not a number is wrong, too
            raise WeightSyncMismatch(
                f"{who}: with its adapter magnified {probe.factor:g} times, its log-probs differ from the learner's "
                f"by {noise:.3g} (typically), limit {limit:.3g}; a part of the adapter is missing or has another "
                "scale"
            )

    def _noise_limit(self, probe: Probe) -> float:
        if self._noise is not None:
            return NOISE_FACTOR * self._noise
        return FIRST_SHARE * float(np.abs(probe.logprobs - np.median(probe.logprobs)).mean())

    def _served_instead(self, ack: SyncAck, update: PolicyUpdate, evidence_N: np.ndarray) -> str | None:
        """Describes what the engine clearly serves instead of this version; None where nothing is clear."""
        probe = update.probe
        values, version = ack.logprobs[evidence_N], probe.logprobs[evidence_N]
        for words, other_N in _others(probe).items():
            if is_nearer(values, other_N[evidence_N], version):
                return words
        for words, answer in [] if self._is_exact else self._known():
            changes = ack.logprobs - answer.engine_N, probe.logprobs - answer.learner_N
            if answer.sha256 != ack.sha256 and is_unmoved(*(change_N[evidence_N] for change_N in changes)):
                return words
        if probe.base is None:
            return None
        scale = wrong_scale(values - probe.base[evidence_N], version - probe.base[evidence_N])
        return None if scale is None else f"serves {scale:.2g} times the adapter's change"

    def _known(self) -> list[tuple[str, _Answer]]:
        """Answers under known versions, and the words for an engine that repeats one."""
        known = [("still serves the version before", answer) for answer in self._last.values()]
        return known if self._base is None else [*known, ("serves the base without an adapter", self._base)]

    def _remember(self, ack: SyncAck, update: PolicyUpdate, noise: float) -> None:
        probe = update.probe
        answer = _Answer(ack.sha256, ack.logprobs, probe.logprobs)
        self._last[ack.worker] = answer
        if self._noise is None:
            self._noise = noise
        is_base = update.shape is None or (
            probe.base is not None and np.array_equal(probe.logprobs, probe.base)
        )
        if self._base is None and is_base:
            self._base = answer


def _check_form(ack: SyncAck, update: PolicyUpdate, who: str) -> None:
    policy, probe = update.policy, update.probe
    if ack.sha256 != policy.sha256:
        raise WeightSyncMismatch(
            f"{who}: it acknowledged sha256 {ack.sha256[:12]}, expected {policy.sha256[:12]}"
        )
    if ack.logprobs.shape != probe.logprobs.shape:
        raise WeightSyncMismatch(
            f"{who}: {ack.logprobs.size} probe log-probs came back, expected {probe.logprobs.size}"
        )


def own_noise(probe: Magnified, evidence_N: np.ndarray) -> float:
    """Typical difference between the learner's answers at almost equal scales, in nats."""
    own_RN = np.stack([probe.logprobs, *probe.rounded_anew])[:, evidence_N]
    return float(np.mean([typical_size(one - two) for one, two in combinations(own_RN, 2)]))


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
