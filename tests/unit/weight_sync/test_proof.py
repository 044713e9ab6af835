"""A delivery is proven by numbers: what passes, what is refused, and that a lying worker is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.model import LoraSpec
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


@pytest.mark.parametrize(
    ("answer", "probe", "change"),
    [
        (NOW + np.array([0, 0, 3e-5], np.float32), PROBE, 0.3),
        (NOW, replace(PROBE, previous=None), None),
        *((NOW, replace(PROBE, previous=NOW + np.float32(change)), change) for change in (0.0, 5e-5, 9e-4)),
    ],
)
def test_right_version_is_accepted_with_its_difference_and_change(
    answer: np.ndarray, probe: Probe, change: float | None
) -> None:
    proof = _check(_ack(answer), probe)
    assert (proof.worker, proof.policy) == ("rollout-1", POLICY)
    assert proof.max_difference == pytest.approx(np.abs(answer - NOW).max(), rel=1e-3)
    assert proof.change == (None if change is None else pytest.approx(change, rel=0, abs=2e-7))


@pytest.mark.parametrize(
    ("ack", "probe", "message"),
    [
        (
            _ack(BEFORE),
            PROBE,
            r"worker rollout-1 .*policy-a1-v5-aaaaaaaa: .*\b0\.3 .*\b5e-05\b.*version before",
        ),
        (_ack(NOW - np.array([0, 0, 2.5e-4], np.float32)), PROBE, r"0\.00025.*5e-05$"),
        (_ack(NOW, sha256="b" * 64), PROBE, r"b{12}.*a{12}"),
        (_ack(NOW), replace(PROBE, logprobs=np.full(3, np.nan, np.float32)), "finite"),
        *((_ack(np.array([-0.5, value, -0.1])), PROBE, "finite") for value in (np.nan, np.inf, -np.inf)),
        # One value would broadcast, and none would differ by nothing.
        *((_ack(np.full(n, -0.5)), PROBE, rf"\b{n} probe log-probs.*\b3\b") for n in (0, 1, 2, 4)),
    ],
)
def test_answer_that_proves_nothing_is_refused(ack: SyncAck, probe: Probe, message: str) -> None:
    with pytest.raises(WeightSyncMismatch, match=message):
        _check(ack, probe)


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


@pytest.mark.parametrize(("difference", "refused"), [(4e-5, False), (6e-5, True)])
def test_float32_is_judged_by_four_tokens_of_five(difference: float, refused: bool) -> None:
    run, verifier = NoisyRun(0.0, 0), SyncVerifier("float32")
    size = np.full(TOKENS, difference, np.float32)
    size[: TOKENS // 6] = 1e-3
    answer = run.update.probe.logprobs + np.where(np.arange(TOKENS) % 2, size, -size)
    assert (_refusal(verifier, run.update, answer) is not None) is refused


def test_shared_beginning_hides_no_difference_in_float32() -> None:
    # 20 sequences begin alike and are sound there; their own last tokens, 1 of 11, are not.
    sequences = tuple((*range(11), index) for index in range(20))
    wrong = np.tile([0.0] * 10 + [1e-3], 20).astype(np.float32)
    with pytest.raises(WeightSyncMismatch, match=r"0\.001"):
        _check(_ack(wrong), Probe(sequences, np.zeros(220, np.float32), None))


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


def test_engine_that_returns_to_the_base_is_refused_after_tiny_steps() -> None:
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
        run, other = NoisyRun(0.0, seed, warm=change), NoisyRun(0.0, seed + 1000)
        assert _refusal(SyncVerifier("bfloat16"), run.update, run.deliver(served)) is not None
        assert "(mean)" in str(_refusal(SyncVerifier("bfloat16"), run.update, other.stale))  # another model


def test_noise_twice_that_of_the_first_version_is_refused() -> None:
    run, verifier = NoisyRun(0.0, 0), SyncVerifier("bfloat16")
    assert _refusal(verifier, run.update, run.stale) is None
    first = run.stale - run.update.probe.logprobs
    run.take_step()
    for factor, refused in ((1.9, False), (2.1, True)):
        answer = run.update.probe.logprobs - np.float32(factor) * first
        assert (_refusal(verifier, run.update, answer) is not None) is refused


def test_magnified_answer_shows_faults_that_the_version_hides() -> None:
    run, verifier = NoisyRun(0.002, 0), SyncVerifier("bfloat16")
    assert _refusal(verifier, run.update, run.stale) is None
    larger = NoisyRun(3.0, 1)
    larger.take_step()
    magnified = Magnified(4096.0, larger.update.probe.logprobs, larger.rounded_anew())

    def refusal(answer: np.ndarray | None) -> str | None:
        run.take_step()
        update = replace(run.update, probe=replace(run.update.probe, magnified=magnified))
        return _refusal(verifier, update, run.deliver(), answer)

    for wrong in (None, larger.deliver("half"), larger.deliver("base"), np.full(TOKENS, np.nan)):
        assert "4096" in str(refusal(wrong))
    assert refusal(larger.deliver()) is None
    evidence_N = distinct_tokens(run.update.probe.sequences, with_shared=False)
    own = own_noise(magnified, evidence_N)
    for factor, refused in ((1.0, False), (1.69, False), (1.71, True)):
        assert (refusal(magnified.logprobs + np.float32(factor * own)) is not None) is refused


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


def test_step_below_the_tolerance_tells_versions_apart_by_distinct_tokens() -> None:
    # Tokens that are all nearer to the version before, in eight prompts of their own or with one beginning.
    now, before = np.zeros(64, np.float32), np.full(64, -5e-5, np.float32)
    own = tuple((index, *range(8)) for index in range(8))
    with pytest.raises(WeightSyncMismatch, match="version before"):
        _check(_ack(before), Probe(own, now, before))
    assert _check(_ack(before), Probe((tuple(range(9)),) * 8, now, before)).max_difference > 0
    assert _check(_ack(now), Probe(own, now, before)).change == pytest.approx(5e-5)


def test_worker_that_lies_about_its_version_is_refused() -> None:
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


@pytest.mark.parametrize("pass_tokens", [None, 64, 12, 8, 1])
def test_probe_matches_each_sequence_alone_and_holds_one_chunk_of_logits(
    pass_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_policy(LoraSpec(rank=4, alpha=8, dropout=0.5), reference=False)
    base: Any = model.get_base_model()
    expected: list[float] = []
    with torch.no_grad():
        for sequence in SEQUENCES:
            values = model(input_ids=torch.tensor([sequence])).logits[0].double().log_softmax(-1)
            expected += [float(values[i, token]) for i, token in enumerate(sequence[1:])]
    held: list[int] = []
    seen: list[int] = []
    base.lm_head.register_forward_hook(lambda _, args, logits: held.append(logits.numel()))
    base.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 2 * VOCABULARY)
    model.train()
    found = probe_logprobs(model, SEQUENCES, *([] if pass_tokens is None else [pass_tokens]))
    assert found.dtype == np.float32 and model.training
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert max(held) == 2 * VOCABULARY and sum(held) == len(expected) * VOCABULARY
    assert seen == {None: [3], 64: [3], 12: [2, 1]}.get(pass_tokens, [1, 1, 1])
