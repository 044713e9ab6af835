"""A delivery is proven by numbers: what passes, what is refused, and that a lying worker is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyray.errors import WeightSyncMismatch
from polyray.models import logprobs
from polyray.models.adapter import AdapterShape, Magnified, PolicyUpdate, Probe, sha256_of
from polyray.models.lora import adapter_bytes
from polyray.types import PolicyVersion
from polyray.weight_sync.evidence import distinct_tokens
from polyray.weight_sync.probe import probe_logprobs
from polyray.weight_sync.proof import EXACT_NATS, SyncAck, SyncProof, SyncVerifier, own_noise
from tests.unit.tiny_policy import VOCABULARY, build_policy, move

POLICY = PolicyVersion(1, 5, "a" * 64)
NOW = np.array([-0.5, -2.0, -0.1], np.float32)
BEFORE = np.array([-0.5, -2.3, -0.1], np.float32)
PROBE = Probe(((1, 8, 9), (1, 7)), NOW, BEFORE)
SEQUENCES = ((1, 8, 9, 3), (1, 7), (1, 5, 5, 6, 20, 2))


def _ack(logprobs: np.ndarray, sha256: str = POLICY.sha256) -> SyncAck:
    return SyncAck("rollout-1", sha256, logprobs, load_s=0.02, probe_s=0.01)


def _check(ack: SyncAck, probe: Probe, policy: PolicyVersion = POLICY, dtype: str = "float32") -> SyncProof:
    return SyncVerifier(dtype).check(ack, PolicyUpdate(policy, b"", None, probe))


def test_accepts_the_version_and_measures_difference_and_change() -> None:
    proof = _check(_ack(NOW + np.array([0, 0, 3e-5], np.float32)), PROBE)
    assert (proof.worker, proof.policy) == ("rollout-1", POLICY)
    assert proof.max_difference == pytest.approx(3e-5, rel=1e-3)
    assert proof.change == pytest.approx(0.3, rel=1e-6)


def test_the_first_version_has_no_change() -> None:
    assert _check(_ack(NOW), replace(PROBE, previous=None)).change is None


def test_refuses_the_version_before_and_says_so() -> None:
    message = (
        r"worker rollout-1 .*policy-a1-v5-aaaaaaaa: .*\b0\.3 "
        r"\(largest\).*\b0\.0001\b.*version before"
    )
    with pytest.raises(WeightSyncMismatch, match=message):
        _check(_ack(BEFORE), PROBE)


def test_refuses_a_difference_above_the_tolerance_with_its_size() -> None:
    with pytest.raises(WeightSyncMismatch, match=r"0\.00025.*0\.0001$"):
        _check(_ack(NOW - np.array([0, 0, 2.5e-4], np.float32)), PROBE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(value: float) -> None:
    logprobs = NOW.copy()
    logprobs[1] = value
    with pytest.raises(WeightSyncMismatch, match="finite"):
        _check(_ack(logprobs), PROBE)


def test_refuses_a_learner_that_is_not_finite() -> None:
    probe = replace(PROBE, logprobs=np.full(3, np.nan, np.float32))
    with pytest.raises(WeightSyncMismatch, match="finite"):
        _check(_ack(NOW), probe)


def test_refuses_another_hash() -> None:
    with pytest.raises(WeightSyncMismatch, match=r"b{12}.*a{12}"):
        _check(_ack(NOW, sha256="b" * 64), PROBE)


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_refuses_another_number_of_values(size: int) -> None:
    # One value would broadcast, and none would differ by nothing.
    with pytest.raises(WeightSyncMismatch, match=rf"\b{size} probe log-probs.*\b3\b"):
        _check(_ack(np.full(size, -0.5, np.float32)), PROBE)


@pytest.mark.parametrize("change", [0.0, 5e-5, 9e-4])
def test_a_version_that_hardly_changed_is_healthy(change: float) -> None:
    probe = replace(PROBE, previous=NOW + np.float32(change))
    proof = _check(_ack(NOW), probe)
    assert proof.max_difference == 0
    assert proof.change == pytest.approx(change, abs=1e-6)


TOKENS = 160
NOISE = 0.035
"""Scale of Student's t with 3 degrees of freedom: differences of .05 in the mean, of single tokens several tenths."""
SHAPE = AdapterShape(4, 8.0, ("v_proj",))


class NoisyRun:
    """Learner and engine of a run in 16 bits: every new version rounds anew, and equal weights give equal bits."""

    def __init__(self, step: float, seed: int, warm: float = 0.0) -> None:
        self._draw = np.random.default_rng(seed)
        self._step = step
        self._true_base = -self._draw.exponential(5.0, TOKENS)
        self._true = self._true_base + warm * self._draw.standard_normal(TOKENS)
        self._base = self._noisy(self._true_base)
        self._served = self._noisy(self._true)
        self._version = 0
        learner = self._noisy(self._true) if warm else self._base
        self.update = self._update(learner, None)

    def take_step(self) -> None:
        """The learner publishes; the engine still serves the version before."""
        self._version += 1
        self._true = self._true + self._step * self._draw.standard_normal(TOKENS)
        self.update = self._update(self._noisy(self._true), self.update.probe.logprobs)

    def deliver(self, served: str = "version") -> np.ndarray:
        """The engine's answer once it serves the version, or what a fault makes of it."""
        change = self._true - self._true_base
        scale = {"version": 1.0, "half": 0.5, "double": 2.0, "base": 0.0}[served]
        self._served = self._noisy(self._true_base + scale * change)
        return self._served

    @property
    def stale(self) -> np.ndarray:
        """The engine's answer under the weights that it has."""
        return self._served

    def rounded_anew(self) -> np.ndarray:
        """Two more answers of the learner under the weights that it has."""
        return np.stack([self._noisy(self._true), self._noisy(self._true)])

    def _noisy(self, logprobs: np.ndarray) -> np.ndarray:
        return (logprobs + NOISE * self._draw.standard_t(3, TOKENS)).astype(np.float32)

    def _update(self, logprobs: np.ndarray, previous: np.ndarray | None) -> PolicyUpdate:
        policy = PolicyVersion(1, self._version, sha256_of(str(self._version).encode()))
        probe = Probe((tuple(range(TOKENS + 1)),), logprobs, previous, self._base)
        return PolicyUpdate(policy, b"", SHAPE, probe)


def _refusal(
    verifier: SyncVerifier, update: PolicyUpdate, answer: np.ndarray, magnified: np.ndarray | None = None
) -> str | None:
    try:
        verifier.check(SyncAck("rollout-1", update.policy.sha256, answer, 0.0, 0.0, magnified), update)
    except WeightSyncMismatch as error:
        return str(error)
    return None


@pytest.mark.parametrize("dtype", ["bfloat16", "nf4"])
@pytest.mark.parametrize("step", [0.0, 0.002, 0.03, 0.3])
@pytest.mark.parametrize("warm", [0.0, 1.0])
def test_sound_versions_in_16_bits_are_never_refused(dtype: str, step: float, warm: float) -> None:
    for seed in range(8):
        run, verifier = NoisyRun(step, seed, warm), SyncVerifier(dtype)
        assert _refusal(verifier, run.update, run.stale) is None
        for _ in range(25):
            run.take_step()
            assert _refusal(verifier, run.update, run.deliver()) is None


@pytest.mark.parametrize("step", [1e-4, 0.002, 0.3])
def test_version_before_is_refused_after_a_step_of_any_size(step: float) -> None:
    for seed in range(50):
        run, verifier = NoisyRun(step, seed), SyncVerifier("bfloat16")
        assert _refusal(verifier, run.update, run.stale) is None
        for _ in range(2):
            run.take_step()
            assert "version before" in str(_refusal(verifier, run.update, run.stale))
            assert _refusal(verifier, run.update, run.deliver()) is None


def test_engine_that_goes_back_to_the_base_is_refused_after_tiny_steps() -> None:
    run, verifier = NoisyRun(0.002, 0), SyncVerifier("bfloat16")
    base = run.stale
    assert _refusal(verifier, run.update, base) is None
    for _ in range(2):
        run.take_step()
        assert _refusal(verifier, run.update, run.deliver()) is None
    run.take_step()
    assert "base" in str(_refusal(verifier, run.update, base))


def test_worker_that_skipped_versions_is_compared_with_its_own_last_answer() -> None:
    run, verifier = NoisyRun(0.002, 0), SyncVerifier("bfloat16")
    verifier.check(SyncAck("rollout-0", run.update.policy.sha256, run.stale, 0.0, 0.0), run.update)
    run.take_step()
    old = run.deliver()
    assert _refusal(verifier, run.update, old) is None
    for _ in range(2):
        run.take_step()
        verifier.check(SyncAck("rollout-0", run.update.policy.sha256, run.deliver(), 0.0, 0.0), run.update)
    assert "version before" in str(_refusal(verifier, run.update, old))
    verifier.forget("rollout-1")
    assert _refusal(verifier, run.update, old) is None  # nothing is known of that answer any more


@pytest.mark.parametrize(("served", "change"), [("base", 0.3), ("half", 0.7), ("double", 0.7)])
def test_fault_of_a_first_version_is_refused_where_its_change_exceeds_the_noise(
    served: str, change: float
) -> None:
    for seed in range(100):
        run = NoisyRun(0.0, seed, warm=change)
        assert _refusal(SyncVerifier("bfloat16"), run.update, run.deliver(served)) is not None


def test_other_model_is_refused_as_first_version() -> None:
    for seed in range(100):
        run, other = NoisyRun(0.0, seed), NoisyRun(0.0, seed + 1000)
        message = _refusal(SyncVerifier("bfloat16"), run.update, other.stale)
        assert message is not None and "(mean)" in message


def test_noise_twice_that_of_the_first_version_is_refused() -> None:
    run, verifier = NoisyRun(0.0, 0), SyncVerifier("bfloat16")
    assert _refusal(verifier, run.update, run.stale) is None
    first = run.stale - run.update.probe.logprobs
    run.take_step()
    for factor, refused in ((1.9, False), (2.1, True)):
        answer = run.update.probe.logprobs - np.float32(factor) * first
        assert (_refusal(verifier, run.update, answer) is not None) is refused


def test_magnified_adapter_shows_what_the_version_itself_hides() -> None:
    run, verifier = NoisyRun(0.002, 0), SyncVerifier("bfloat16")
    assert _refusal(verifier, run.update, run.stale) is None
    run.take_step()
    larger = NoisyRun(3.0, 1)
    larger.take_step()
    magnified = Magnified(4096.0, larger.update.probe.logprobs, larger.rounded_anew())
    probe = replace(run.update.probe, magnified=magnified)
    update, answer = replace(run.update, probe=probe), run.deliver()
    for wrong in (None, larger.deliver("half"), larger.deliver("base"), np.full(TOKENS, np.nan)):
        assert "4096" in str(_refusal(verifier, update, answer, wrong))
    assert _refusal(verifier, update, answer, larger.deliver()) is None


def test_magnified_answer_is_refused_beyond_its_noise() -> None:
    run, verifier = NoisyRun(0.002, 0), SyncVerifier("bfloat16")
    larger = NoisyRun(3.0, 1)
    larger.take_step()
    magnified = Magnified(4096.0, larger.update.probe.logprobs, larger.rounded_anew())
    evidence_N = distinct_tokens(run.update.probe.sequences, with_shared=False)
    own = own_noise(magnified, evidence_N)
    assert _refusal(verifier, run.update, run.stale) is None
    for factor, refused in ((1.0, False), (1.69, False), (1.71, True)):
        run.take_step()
        update = replace(run.update, probe=replace(run.update.probe, magnified=magnified))
        answer_N = magnified.logprobs + np.float32(factor * own)
        assert (_refusal(verifier, update, run.deliver(), answer_N) is not None) is refused


def test_magnified_update_differs_in_name_scale_and_probe() -> None:
    logprobs = np.array([-3.0, -9.0], np.float32)
    probe = Probe(
        ((1, 8, 9),), NOW[:2], None, BEFORE[:2], Magnified(1024.0, logprobs, np.stack([logprobs, logprobs]))
    )
    update = PolicyUpdate(POLICY, b"weights", SHAPE, probe)
    larger = update.magnified()
    assert larger is not None and larger.shape is not None
    assert larger.policy.name != update.policy.name and larger.policy.version == 5
    assert (larger.tensors, larger.shape.scale) == (b"weights", 1024 * SHAPE.scale)
    np.testing.assert_array_equal(larger.probe.logprobs, logprobs)
    assert larger.magnified() is None
    assert replace(update, shape=None, tensors=b"").magnified() is None


def test_shared_tokens_are_evidence_once_in_float32() -> None:
    # Tokens that are all nearer to the version before, in eight prompts of their own or with one beginning.
    now, before = np.zeros(64, np.float32), np.full(64, -5e-5, np.float32)
    own = tuple((index, *range(8)) for index in range(8))
    with pytest.raises(WeightSyncMismatch, match="version before"):
        _check(_ack(before), Probe(own, now, before))
    assert _check(_ack(before), Probe((tuple(range(9)),) * 8, now, before)).max_difference > 0


def test_in_float32_a_step_far_below_the_tolerance_tells_versions_apart() -> None:
    draw = np.random.default_rng(0)
    before = -draw.exponential(2.0, 60).astype(np.float32)
    probe = Probe((tuple(range(61)),), before + np.float32(2e-5), before)
    assert _check(_ack(probe.logprobs), probe).change == pytest.approx(2e-5, rel=0.2)
    with pytest.raises(WeightSyncMismatch, match="version before"):
        _check(_ack(before), probe)


def test_a_worker_that_lies_about_its_version_is_found_out() -> None:
    model = build_policy(reference=False)
    before = probe_logprobs(model, SEQUENCES)
    move(model, size=0.01, seed=9)
    tensors = adapter_bytes(model)
    policy = PolicyVersion(1, 2, sha256_of(tensors))
    probe = Probe(SEQUENCES, probe_logprobs(model, SEQUENCES), before)
    honest = SyncAck("honest", sha256_of(tensors), probe_logprobs(model, SEQUENCES), 0.0, 0.0)
    change = _check(honest, probe, policy).change
    assert change is not None
    assert change > 10 * EXACT_NATS
    liar = SyncAck("liar", sha256_of(tensors), before, 0.0, 0.0)
    with pytest.raises(WeightSyncMismatch, match=r"worker liar .*version before"):
        _check(liar, probe, policy)


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
