"""A delivery is proven by numbers: what passes, what is refused, and that a lying worker is found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from polyray.delivery.adapter import Probe, sha256_of
from polyray.delivery.probe import probe_logprobs
from polyray.delivery.proof import DeliveryAck, check_delivery
from polyray.errors import PolicyNotDelivered
from polyray.models.lora import adapter_bytes
from polyray.types import PolicyVersion
from tests.unit.tiny_policy import build_policy, move

TOLERANCE = 1e-4
POLICY = PolicyVersion(1, 5, "a" * 64)
NOW = np.array([-0.5, -2.0, -0.1], np.float32)
BEFORE = np.array([-0.5, -2.3, -0.1], np.float32)
PROBE = Probe(((1, 8, 9), (1, 7)), NOW, BEFORE)
SEQUENCES = ((1, 8, 9, 3), (1, 7), (1, 5, 5, 6, 20, 2))


def _ack(logprobs: np.ndarray, sha256: str = POLICY.sha256) -> DeliveryAck:
    return DeliveryAck("rollout-1", sha256, logprobs, load_s=0.02, probe_s=0.01)


def test_accepts_the_version_and_measures_difference_and_change() -> None:
    proof = check_delivery(_ack(NOW + np.array([0, 0, 3e-5], np.float32)), POLICY, PROBE, TOLERANCE)
    assert (proof.worker, proof.policy) == ("rollout-1", POLICY)
    assert proof.max_difference == pytest.approx(3e-5, rel=1e-3)
    assert proof.change == pytest.approx(0.3, rel=1e-6)


def test_the_first_version_has_no_change() -> None:
    assert check_delivery(_ack(NOW), POLICY, replace(PROBE, previous=None), TOLERANCE).change is None


def test_refuses_the_version_before_and_says_so() -> None:
    message = (
        r"worker rollout-1 does not serve policy-a1-v5-aaaaaaaa: .* differ from the learner's by 0\.3, "
        r"tolerance 0\.0001; it still serves the version before"
    )
    with pytest.raises(PolicyNotDelivered, match=message):
        check_delivery(_ack(BEFORE), POLICY, PROBE, TOLERANCE)


def test_refuses_a_difference_above_the_tolerance_with_its_size() -> None:
    with pytest.raises(PolicyNotDelivered, match=r"by 0\.00025, tolerance 0\.0001$"):
        check_delivery(_ack(NOW - np.array([0, 0, 2.5e-4], np.float32)), POLICY, PROBE, TOLERANCE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(value: float) -> None:
    logprobs = NOW.copy()
    logprobs[1] = value
    with pytest.raises(PolicyNotDelivered, match="are not finite"):
        check_delivery(_ack(logprobs), POLICY, PROBE, TOLERANCE)


def test_refuses_a_learner_that_is_not_finite() -> None:
    probe = replace(PROBE, logprobs=np.full(3, np.nan, np.float32))
    with pytest.raises(PolicyNotDelivered, match="are not finite"):
        check_delivery(_ack(NOW), POLICY, probe, TOLERANCE)


def test_refuses_another_hash() -> None:
    with pytest.raises(PolicyNotDelivered, match="acknowledged sha256 bbbbbbbbbbbb, expected aaaaaaaaaaaa"):
        check_delivery(_ack(NOW, sha256="b" * 64), POLICY, PROBE, TOLERANCE)


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_refuses_another_number_of_values(size: int) -> None:
    # One value would broadcast, and none would differ by nothing.
    with pytest.raises(PolicyNotDelivered, match=f"{size} probe log-probs came back, expected 3"):
        check_delivery(_ack(np.full(size, -0.5, np.float32)), POLICY, PROBE, TOLERANCE)


@pytest.mark.parametrize("change", [0.0, 5e-5, 9e-4])
def test_a_version_that_hardly_changed_is_healthy(change: float) -> None:
    probe = replace(PROBE, previous=NOW + np.float32(change))
    proof = check_delivery(_ack(NOW), POLICY, probe, TOLERANCE)
    assert proof.max_difference == 0
    assert proof.change == pytest.approx(change, abs=1e-6)


def test_a_worker_that_lies_about_its_version_is_found_out() -> None:
    model = build_policy(reference=False)
    before = probe_logprobs(model, SEQUENCES)
    move(model, size=0.01, seed=9)
    tensors = adapter_bytes(model)
    policy = PolicyVersion(1, 2, sha256_of(tensors))
    probe = Probe(SEQUENCES, probe_logprobs(model, SEQUENCES), before)
    honest = DeliveryAck("honest", sha256_of(tensors), probe_logprobs(model, SEQUENCES), 0.0, 0.0)
    change = check_delivery(honest, policy, probe, TOLERANCE).change
    assert change is not None
    assert change > 10 * TOLERANCE
    liar = DeliveryAck("liar", sha256_of(tensors), before, 0.0, 0.0)
    with pytest.raises(PolicyNotDelivered, match=r"worker liar does not serve .* serves the version before"):
        check_delivery(liar, policy, probe, TOLERANCE)


def test_probe_logprobs_are_those_of_each_sequence_alone() -> None:
    model = build_policy(reference=False)
    expected: list[float] = []
    with torch.no_grad():
        for sequence in SEQUENCES:
            logprobs = model(input_ids=torch.tensor([sequence])).logits[0].double().log_softmax(-1)
            expected += [float(logprobs[i, token]) for i, token in enumerate(sequence[1:])]
    for batch_rows in (64, 2, 1):
        values = probe_logprobs(model, SEQUENCES, batch_rows)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_probing_leaves_the_mode_of_the_model_alone_and_runs_without_dropout() -> None:
    from polyray.config.model import LoraSpec

    model = build_policy(LoraSpec(rank=4, alpha=8, dropout=0.5), reference=False)
    expected = probe_logprobs(model, SEQUENCES)
    model.train()
    np.testing.assert_array_equal(probe_logprobs(model, SEQUENCES), expected)
    assert model.training
