"""Order of versions, and the workers that count as serving one."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.errors import WeightSyncError, WeightSyncMismatch
from polyray.models.adapter import PolicyUpdate, Probe
from polyray.types import PolicyVersion
from polyray.weight_sync.proof import SyncAck
from polyray.weight_sync.registry import PolicyRegistry

LOGPROBS = np.array([-1.0], np.float32)


def _payload(version: int, attempt: int = 1) -> PolicyUpdate:
    probe = Probe(((1, 2),), LOGPROBS, None)
    return PolicyUpdate(PolicyVersion(attempt, version, "c" * 64), b"", None, probe)


def _ack(worker: str, logprob: float = -1.0) -> SyncAck:
    return SyncAck(worker, "c" * 64, np.array([logprob], np.float32), 0.0, 0.0)


def test_versions_count_up_by_one_within_an_attempt() -> None:
    registry = PolicyRegistry("float32")
    assert registry.current is None
    registry.publish(_payload(3))
    registry.publish(_payload(4))
    for refused in (3, 4, 6):
        with pytest.raises(WeightSyncError, match=f"policy-a1-v{refused}-cccccccc.*policy-a1-v4"):
            registry.publish(_payload(refused))
    assert registry.current is not None
    assert registry.current.policy.version == 4


def test_a_new_attempt_may_go_back_but_an_old_one_may_not_return() -> None:
    registry = PolicyRegistry("float32")
    registry.publish(_payload(7))
    registry.publish(_payload(2, attempt=2))
    with pytest.raises(WeightSyncError, match=r"policy-a1-v8-\w+ .*policy-a2-v2-\w+"):
        registry.publish(_payload(8, attempt=1))
    registry.publish(_payload(3, attempt=2))


def test_only_a_proven_worker_serves() -> None:
    registry = PolicyRegistry("float32")
    registry.publish(_payload(0))
    registry.prove(_ack("rollout-0"), _payload(0))
    with pytest.raises(WeightSyncMismatch, match="worker rollout-1"):
        registry.prove(_ack("rollout-1", logprob=-1.01), _payload(0))
    assert registry.served_by("rollout-0") == _payload(0).policy
    assert registry.served_by("rollout-1") is None


def test_a_failed_delivery_leaves_the_proof_of_the_version_before() -> None:
    registry = PolicyRegistry("float32")
    registry.prove(_ack("rollout-0"), _payload(0))
    with pytest.raises(WeightSyncMismatch):
        registry.prove(_ack("rollout-0", logprob=-1.01), _payload(1))
    assert registry.served_by("rollout-0") == _payload(0).policy
    registry.prove(_ack("rollout-0"), _payload(1))
    assert registry.served_by("rollout-0") == _payload(1).policy


def test_a_worker_that_is_gone_serves_nothing() -> None:
    registry = PolicyRegistry("float32")
    registry.prove(_ack("rollout-0"), _payload(0))
    registry.forget("rollout-0")
    registry.forget("rollout-9")
    assert registry.served_by("rollout-0") is None
