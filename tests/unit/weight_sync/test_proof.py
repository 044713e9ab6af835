"""A delivery is proven by numbers: what passes, what is refused, and that a lying worker is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.delivery import DeliverySpec, Tolerance
from polyray.errors import WeightSyncMismatch
from polyray.models import logprobs
from polyray.models.adapter import Probe, sha256_of
from polyray.models.lora import adapter_bytes
from polyray.types import PolicyVersion
from polyray.weight_sync.probe import probe_logprobs
from polyray.weight_sync.proof import SyncAck, check_delivery, distinct_tokens
from tests.unit.tiny_policy import VOCABULARY, build_policy, move

TOLERANCE = Tolerance(1e-4)
POLICY = PolicyVersion(1, 5, "a" * 64)
NOW = np.array([-0.5, -2.0, -0.1], np.float32)
BEFORE = np.array([-0.5, -2.3, -0.1], np.float32)
PROBE = Probe(((1, 8, 9), (1, 7)), NOW, BEFORE)
SEQUENCES = ((1, 8, 9, 3), (1, 7), (1, 5, 5, 6, 20, 2))


def _ack(logprobs: np.ndarray, sha256: str = POLICY.sha256) -> SyncAck:
    return SyncAck("rollout-1", sha256, logprobs, load_s=0.02, probe_s=0.01)


def test_accepts_the_version_and_measures_difference_and_change() -> None:
    proof = check_delivery(_ack(NOW + np.array([0, 0, 3e-5], np.float32)), POLICY, PROBE, TOLERANCE)
    assert (proof.worker, proof.policy) == ("rollout-1", POLICY)
    assert proof.max_difference == pytest.approx(3e-5, rel=1e-3)
    assert proof.change == pytest.approx(0.3, rel=1e-6)


def test_the_first_version_has_no_change() -> None:
    assert check_delivery(_ack(NOW), POLICY, replace(PROBE, previous=None), TOLERANCE).change is None


def test_refuses_the_version_before_and_says_so() -> None:
    message = (
        r"worker rollout-1 .*policy-a1-v5-aaaaaaaa: .*\b0\.3 "
        r"\(largest\).*\b0\.0001\b.*version before"
    )
    with pytest.raises(WeightSyncMismatch, match=message):
        check_delivery(_ack(BEFORE), POLICY, PROBE, TOLERANCE)


def test_refuses_a_difference_above_the_tolerance_with_its_size() -> None:
    with pytest.raises(WeightSyncMismatch, match=r"0\.00025.*0\.0001$"):
        check_delivery(_ack(NOW - np.array([0, 0, 2.5e-4], np.float32)), POLICY, PROBE, TOLERANCE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(value: float) -> None:
    logprobs = NOW.copy()
    logprobs[1] = value
    with pytest.raises(WeightSyncMismatch, match="finite"):
        check_delivery(_ack(logprobs), POLICY, PROBE, TOLERANCE)


def test_refuses_a_learner_that_is_not_finite() -> None:
    probe = replace(PROBE, logprobs=np.full(3, np.nan, np.float32))
    with pytest.raises(WeightSyncMismatch, match="finite"):
        check_delivery(_ack(NOW), POLICY, probe, TOLERANCE)


def test_refuses_another_hash() -> None:
    with pytest.raises(WeightSyncMismatch, match=r"b{12}.*a{12}"):
        check_delivery(_ack(NOW, sha256="b" * 64), POLICY, PROBE, TOLERANCE)


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_refuses_another_number_of_values(size: int) -> None:
    # One value would broadcast, and none would differ by nothing.
    with pytest.raises(WeightSyncMismatch, match=rf"\b{size} probe log-probs.*\b3\b"):
        check_delivery(_ack(np.full(size, -0.5, np.float32)), POLICY, PROBE, TOLERANCE)


@pytest.mark.parametrize("change", [0.0, 5e-5, 9e-4])
def test_a_version_that_hardly_changed_is_healthy(change: float) -> None:
    probe = replace(PROBE, previous=NOW + np.float32(change))
    proof = check_delivery(_ack(NOW), POLICY, probe, TOLERANCE)
    assert proof.max_difference == 0
    assert proof.change == pytest.approx(change, abs=1e-6)


def _in_16_bits(count: int, change: float, seed: int) -> tuple[Probe, np.ndarray, np.ndarray]:
    """(probe, sound answer, answer of the version before), with noise as bfloat16 has it: differences of .014 in the
    mean, but of one token in fifty several tenths."""
    draw = np.random.default_rng(seed)

    def noisy(logprobs: np.ndarray) -> np.ndarray:
        scale = np.where(draw.random(count) < 0.02, 0.2, 0.008)
        return (logprobs + scale * draw.standard_normal(count)).astype(np.float32)

    before = -draw.exponential(2.0, count)
    now = before + change * draw.standard_normal(count)
    probe = Probe((tuple(range(count + 1)),), noisy(now), noisy(before))
    return probe, noisy(now), noisy(before)


@pytest.mark.parametrize("change", [0.0, 0.003, 0.03, 0.3])
def test_noise_of_16_bits_refuses_no_sound_delivery(change: float) -> None:
    tolerance = DeliverySpec().tolerance_for("bfloat16")
    worst = 0.0
    for seed in range(400):
        probe, sound, _ = _in_16_bits(92, change, seed)
        worst = max(worst, check_delivery(_ack(sound), POLICY, probe, tolerance).max_difference)
    assert worst > 10 * tolerance.nats  # a single token is off by more than any mean may be


@pytest.mark.parametrize(("change", "refused"), [(0.3, 400), (0.06, 390), (0.0, 0)])
def test_the_version_before_is_found_out_below_the_noise_of_single_tokens(
    change: float, refused: int
) -> None:
    tolerance = DeliverySpec().tolerance_for("nf4")
    found = 0
    for seed in range(400):
        probe, _, stale = _in_16_bits(92, change, seed)
        try:
            check_delivery(_ack(stale), POLICY, probe, tolerance)
        except WeightSyncMismatch as error:
            found += 1
            assert "version before" in str(error)
    assert found >= refused and (refused > 0 or found == 0)


DEEP = Tolerance(5e-2, "mean", share=0.05)


def _deep_model(change: float, seed: int) -> tuple[Probe, dict[str, np.ndarray]]:
    """(probe, answers of an engine by what it serves) of a deep model in bfloat16: log-probs of 256 tokens of real
    text, of which every computation is off by .07 in the mean; the adapter changes them by `change` nats."""
    draw = np.random.default_rng(seed)

    def noisy(logprobs: np.ndarray) -> np.ndarray:
        return (logprobs + 0.035 * draw.standard_t(3, 256)).astype(np.float32)

    base = -draw.exponential(5.0, 256)
    version = base + change * draw.standard_normal(256)
    before = base + 0.5 * (version - base) + 0.3 * change * draw.standard_normal(256)
    served = {"version": version, "base": base, "before": before}
    served |= {"half": base + 0.5 * (version - base), "double": base + 2 * (version - base)}
    served |= {"other model": -draw.exponential(5.0, 256)}
    probe = Probe((tuple(range(257)),), noisy(version), noisy(before), noisy(base))
    return probe, {name: noisy(logprobs) for name, logprobs in served.items()}


def _refused(answer: np.ndarray, probe: Probe, tolerance: Tolerance) -> bool:
    try:
        check_delivery(_ack(answer), POLICY, probe, tolerance)
    except WeightSyncMismatch:
        return True
    return False


@pytest.mark.parametrize("change", [0.0, 1e-3, 0.03, 0.1, 0.3, 1.0])
def test_healthy_versions_of_a_deep_model_in_16_bits_are_never_refused(change: float) -> None:
    assert DeliverySpec().tolerance_for("bfloat16") == DEEP
    differences = []
    for seed in range(200):
        probe, answers = _deep_model(change, seed)
        differences.append(check_delivery(_ack(answers["version"]), POLICY, probe, DEEP).mean_difference)
    assert np.mean(differences) > DEEP.nats  # a tolerance of so many nats alone would refuse them


@pytest.mark.parametrize(
    ("served", "change"),
    [("base", 0.3), ("before", 0.3), ("half", 0.7), ("double", 0.7), ("other model", 0.0)],
)
def test_faults_of_a_deep_model_in_16_bits_are_refused(served: str, change: float) -> None:
    for seed in range(100):
        probe, answers = _deep_model(change, seed)
        assert _refused(answers[served], probe, DEEP)


def test_the_base_is_found_out_where_no_version_was_served_before() -> None:
    probe, answers = _deep_model(0.15, 0)
    with pytest.raises(WeightSyncMismatch, match=r"rollout-1 .*base"):
        check_delivery(_ack(answers["base"]), POLICY, replace(probe, previous=None), DEEP)
    assert not _refused(answers["base"], replace(probe, previous=None, base=None), DEEP)


def test_tokens_that_sequences_share_are_evidence_once() -> None:
    assert distinct_tokens(((1, 8, 9), (1, 8, 7, 7), (1, 8, 9))).tolist() == [
        True,
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    # Eight tokens that are all nearer to the version before, in each of eight prompts with the same beginning.
    now, before = np.zeros(64, np.float32), np.full(64, -0.1, np.float32)
    own = tuple((index, *range(8)) for index in range(8))
    tolerance = Tolerance(1.0)
    assert _refused(before, Probe(own, now, before), tolerance)
    assert not _refused(before, Probe((tuple(range(9)),) * 8, now, before), tolerance)


def test_a_mean_above_the_tolerance_is_refused_in_16_bits() -> None:
    with pytest.raises(WeightSyncMismatch, match=r"0\.06.*0\.05$"):
        check_delivery(_ack(NOW + np.float32(0.06)), POLICY, PROBE, DeliverySpec().tolerance_for("bfloat16"))


def test_in_float32_a_step_far_below_the_tolerance_tells_versions_apart() -> None:
    draw = np.random.default_rng(0)
    before = -draw.exponential(2.0, 60).astype(np.float32)
    probe = Probe((tuple(range(61)),), before + np.float32(2e-5), before)
    assert check_delivery(_ack(probe.logprobs), POLICY, probe, TOLERANCE).change == pytest.approx(
        2e-5, rel=0.2
    )
    with pytest.raises(WeightSyncMismatch, match="version before"):
        check_delivery(_ack(before), POLICY, probe, TOLERANCE)


def test_a_tolerance_of_the_configuration_is_judged_as_the_dtype_wants() -> None:
    spec = DeliverySpec(tolerance=0.3)
    assert spec.tolerance_for("float32") == Tolerance(0.3, "largest")
    assert spec.tolerance_for("bfloat16") == spec.tolerance_for("nf4") == Tolerance(0.3, "mean")
    assert spec.tolerance_for("bfloat16").share == 0.0


def test_a_worker_that_lies_about_its_version_is_found_out() -> None:
    model = build_policy(reference=False)
    before = probe_logprobs(model, SEQUENCES)
    move(model, size=0.01, seed=9)
    tensors = adapter_bytes(model)
    policy = PolicyVersion(1, 2, sha256_of(tensors))
    probe = Probe(SEQUENCES, probe_logprobs(model, SEQUENCES), before)
    honest = SyncAck("honest", sha256_of(tensors), probe_logprobs(model, SEQUENCES), 0.0, 0.0)
    change = check_delivery(honest, policy, probe, TOLERANCE).change
    assert change is not None
    assert change > 10 * TOLERANCE.nats
    liar = SyncAck("liar", sha256_of(tensors), before, 0.0, 0.0)
    with pytest.raises(WeightSyncMismatch, match=r"worker liar .*version before"):
        check_delivery(liar, policy, probe, TOLERANCE)


def test_probe_logprobs_match_each_sequence_alone() -> None:
    model = build_policy(reference=False)
    expected: list[float] = []
    with torch.no_grad():
        for sequence in SEQUENCES:
            logprobs = model(input_ids=torch.tensor([sequence])).logits[0].double().log_softmax(-1)
            expected += [float(logprobs[i, token]) for i, token in enumerate(sequence[1:])]
    for pass_tokens in (64, 8, 1):
        values = probe_logprobs(model, SEQUENCES, pass_tokens)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_probing_leaves_the_mode_of_the_model_alone_and_runs_without_dropout() -> None:
    from polyray.config.model import LoraSpec

    model = build_policy(LoraSpec(rank=4, alpha=8, dropout=0.5), reference=False)
    expected = probe_logprobs(model, SEQUENCES)
    model.train()
    np.testing.assert_array_equal(probe_logprobs(model, SEQUENCES), expected)
    assert model.training


def test_a_probe_holds_the_logits_of_a_chunk_and_the_tokens_of_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_policy(reference=False)
    base: Any = model.get_base_model()
    expected = probe_logprobs(model, SEQUENCES)
    held: list[int] = []
    seen: list[tuple[int, ...]] = []
    base.lm_head.register_forward_hook(lambda _, args, logits: held.append(logits.numel()))
    base.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 2 * VOCABULARY)
    lengths = [len(sequence) for sequence in SEQUENCES]
    np.testing.assert_allclose(probe_logprobs(model, SEQUENCES), expected, rtol=0, atol=1e-6)
    assert seen == [(len(SEQUENCES), max(lengths))]
    assert max(held) == 2 * VOCABULARY and sum(held) == (sum(lengths) - len(lengths)) * VOCABULARY
    seen.clear()
    np.testing.assert_allclose(
        probe_logprobs(model, SEQUENCES, 2 * max(lengths)), expected, rtol=0, atol=1e-6
    )
    assert [rows for rows, _ in seen] == [2] * (len(SEQUENCES) // 2) + [1] * (len(SEQUENCES) % 2)
