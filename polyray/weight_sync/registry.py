"""Published version, and the version that each worker has proven to serve. Bookkeeping without I/O."""

from __future__ import annotations

from polyray.config.delivery import Tolerance
from polyray.errors import DeliveryError
from polyray.models.adapter import AdapterPayload
from polyray.types import PolicyVersion
from polyray.weight_sync.proof import DeliveryAck, DeliveryProof, check_delivery


class PolicyRegistry:
    """The published version, and the proofs of every worker that serves it."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._current: AdapterPayload | None = None
        self._served: dict[str, PolicyVersion] = {}

    @property
    def current(self) -> AdapterPayload | None:
        """The newest published version; None before the first."""
        return self._current

    def publish(self, payload: AdapterPayload) -> None:
        """A version may only follow its predecessor within an attempt; a new attempt may start anywhere."""
        before = self._current.policy if self._current is not None else None
        now = payload.policy
        if before is not None and now.attempt == before.attempt and now.version != before.version + 1:
            raise DeliveryError(f"{now.name} cannot follow {before.name}: versions count up by one")
        if before is not None and now.attempt < before.attempt:
            raise DeliveryError(f"{now.name} belongs to an attempt that ended; {before.name} is newer")
        self._current = payload

    def prove(self, ack: DeliveryAck, payload: AdapterPayload) -> DeliveryProof:
        """Checks what a worker answered and from then on counts it as serving. Raises PolicyNotDelivered."""
        proof = check_delivery(ack, payload.policy, payload.probe, self._tolerance)
        self._served[ack.worker] = payload.policy
        return proof

    def served_by(self, worker: str) -> PolicyVersion | None:
        """Version that a worker has proven to serve; None before the first."""
        return self._served.get(worker)

    def forget(self, worker: str) -> None:
        """The worker is gone."""
        self._served.pop(worker, None)
