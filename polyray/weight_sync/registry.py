"""Published version, and the version that each worker has proven to serve. Bookkeeping without I/O."""

from __future__ import annotations

from polyray.errors import WeightSyncError
from polyray.models.adapter import PolicyUpdate
from polyray.types import PolicyVersion
from polyray.weight_sync.proof import SyncAck, SyncProof, SyncVerifier


class PolicyRegistry:
    """The published version, and the proofs of every worker that serves it."""

    def __init__(self, dtype: str) -> None:
        self._verifier = SyncVerifier(dtype)
        self._current: PolicyUpdate | None = None
        self._served: dict[str, PolicyVersion] = {}

    @property
    def current(self) -> PolicyUpdate | None:
        """The newest published version; None before the first."""
        return self._current

    def publish(self, payload: PolicyUpdate) -> None:
        """A version may only follow its predecessor within an attempt; a new attempt may start anywhere."""
        before = self._current.policy if self._current is not None else None
        now = payload.policy
        if before is not None and now.attempt == before.attempt and now.version != before.version + 1:
            raise WeightSyncError(f"{now.name} cannot follow {before.name}: versions count up by one")
        if before is not None and now.attempt < before.attempt:
            raise WeightSyncError(f"{now.name} belongs to an attempt that ended; {before.name} is newer")
        self._current = payload

    def prove(self, ack: SyncAck, payload: PolicyUpdate) -> SyncProof:
        """Checks what a worker answered and from then on counts it as serving. Raises WeightSyncMismatch."""
        proof = self._verifier.check(ack, payload)
        self._served[ack.worker] = payload.policy
        return proof

    def served_by(self, worker: str) -> PolicyVersion | None:
        """Version that a worker has proven to serve; None before the first."""
        return self._served.get(worker)

    def forget(self, worker: str) -> None:
        """The worker is gone."""
        self._served.pop(worker, None)
        self._verifier.forget(worker)
