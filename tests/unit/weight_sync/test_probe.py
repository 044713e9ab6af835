"""The probe's sequences, and adapters on disk as deliverable versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, WeightSyncMismatch
from polyray.learner.embedded import build_tokenizer
from polyray.models.adapter import AdapterShape, sha256_of
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import adapter_bytes, add_reference, attach_adapter, save_adapter
from polyray.tasks import build_task
from polyray.weight_sync.evidence import distinct_tokens
from polyray.weight_sync.probe import (
    MAGNIFIED,
    NOISY_TOKENS,
    adapter_on_disk,
    magnification,
    magnified_probe,
    probe_logprobs,
    probe_sequences,
)
from polyray.weight_sync.proof import SyncAck, SyncProof, SyncVerifier
from tests.unit.tiny_policy import build_base, build_policy, move, save_base

SEQUENCES = ((1, 8, 9, 3), (1, 7, 20))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    directory = tmp_path_factory.mktemp("run") / "adapter"
    manifest = {"base_sha256": base_fingerprint(model_dir)}
    save_adapter(build_policy(reference=False), directory, manifest)
    return directory


def _adapted(model_dir: Path, dtype: str) -> PeftModel:
    base, lora = load_base(model_dir, dtype), LoraSpec(rank=4, alpha=8)
    return attach_adapter(base, lora, None, base_sha256="b" * 64, seed=0).eval()


def _sequences(
    model_dir: Path, seed: int = 0, dtype: str = "float32", **rollout: int
) -> tuple[tuple[int, ...], ...]:
    return probe_sequences(HiddenTrapGridSpec(), RolloutSpec(**rollout), 5, seed, model_dir, dtype)  # type: ignore[arg-type]


def test_probes_are_training_prompts_with_eight_random_tokens_that_fit_the_engine(model_dir: Path) -> None:
    sequences = _sequences(model_dir)
    task, tokenizer = build_task(HiddenTrapGridSpec()), build_tokenizer()
    for index, sequence in enumerate(sequences):
        prompt = tokenizer.encode(task.training_prompt(index, 0).text)
        assert list(sequence[: len(prompt)]) == prompt
        assert len(sequence) == len(prompt) + 8
        assert all(3 <= token < 28 for token in sequence[len(prompt) :])
    assert len({sequence[-8:] for sequence in sequences}) == 5
    assert _sequences(model_dir) == sequences != _sequences(model_dir, seed=1)
    tight = _sequences(model_dir, max_prompt_tokens=6, max_completion_tokens=4)
    for sequence, full in zip(tight, sequences, strict=True):
        assert len(sequence) == 6 + 4 - 1  # an engine samples one token after it
        assert sequence[:-4] == full[:10][-5:]  # the prompt keeps its end


def test_probes_in_16_bits_are_longer_and_as_many_as_a_sign_test_needs(model_dir: Path) -> None:
    exact = _sequences(model_dir, max_completion_tokens=16)
    noisy = _sequences(model_dir, dtype="bfloat16", max_completion_tokens=16)
    assert len(exact) == 5
    for short, long in zip(exact, noisy, strict=False):
        assert len(long) == len(short) + 8 and long[: len(short) - 8] == short[:-8]
    enough, too_few = (distinct_tokens(some, with_shared=False).sum() for some in (noisy, noisy[:-1]))
    assert enough >= NOISY_TOKENS > too_few


def test_probes_of_one_short_prompt_in_16_bits_are_not_endless(model_dir: Path) -> None:
    # Two prompt tokens and one of 25 random ones: most sequences are equal, and equal ones are no evidence.
    sequences = _sequences(model_dir, dtype="bfloat16", max_prompt_tokens=2, max_completion_tokens=1)
    assert len(sequences) == NOISY_TOKENS


def test_step_too_small_for_16_bits_leaves_the_probe_as_it_was(model_dir: Path) -> None:
    model = _adapted(model_dir, "bfloat16")
    move(model)
    before, weights = probe_logprobs(model, SEQUENCES), adapter_bytes(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data *= 1 + 1e-6
    assert adapter_bytes(model) != weights
    moved = adapter_bytes(model)
    np.testing.assert_allclose(probe_logprobs(model, SEQUENCES), before, atol=0.05)
    assert adapter_bytes(model) == moved, "the weights must be their own again after a probe"
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16().float()
    rounded = probe_logprobs(model, SEQUENCES)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data *= 1 + 1e-4  # less than half of a step of bfloat16
    np.testing.assert_array_equal(probe_logprobs(model, SEQUENCES), rounded)


def test_magnified_probe_is_that_of_a_larger_scale(model_dir: Path) -> None:
    exact, model = _adapted(model_dir, "float32"), _adapted(model_dir, "bfloat16")
    move(exact, 1e-5)
    assert magnified_probe(exact, SEQUENCES) is None
    add_reference(model)
    assert magnified_probe(model, SEQUENCES) is None, "a fresh adapter has nothing to magnify"
    move(model, 1e-5)
    expected = 2.0 ** round(np.log2(MAGNIFIED / 2e-5))  # alpha / r is 2
    magnified = magnified_probe(model, SEQUENCES)
    assert magnified is not None and magnified.factor == magnification(model) == expected
    plain = probe_logprobs(model, SEQUENCES)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            assert module.scaling == {"default": 2.0, "reference": 2.0}
            module.scaling["default"] *= expected
    np.testing.assert_array_equal(probe_logprobs(model, SEQUENCES), magnified.logprobs)
    assert magnified.rounded_anew.shape == (2, len(plain))
    np.testing.assert_allclose(magnified.rounded_anew, np.stack([magnified.logprobs] * 2), atol=0.1)
    assert np.abs(magnified.logprobs - plain).max() > 0.1
    assert magnified_probe(model, SEQUENCES) is None, "it is large enough already"


def test_adapter_on_disk_becomes_a_version_that_the_model_proves(
    tmp_path: Path, model_dir: Path, adapter_dir: Path
) -> None:
    before = np.zeros(5, np.float32)
    payload = adapter_on_disk(adapter_dir, model_dir, "float32", SEQUENCES, version=4, previous=before)
    content = (adapter_dir / "adapter_model.safetensors").read_bytes()
    assert payload.tensors == content
    assert (payload.policy.attempt, payload.policy.version) == (1, 4)
    assert payload.policy.sha256 == sha256_of(content)
    written = json.loads((adapter_dir / "adapter_config.json").read_text())
    assert payload.shape == AdapterShape.from_peft(written)
    probe, of_base = payload.probe, probe_logprobs(build_base(), SEQUENCES)
    expected = probe_logprobs(build_policy(reference=False), SEQUENCES)
    np.testing.assert_allclose(probe.logprobs, expected, atol=1e-6)
    assert probe.sequences == SEQUENCES and probe.previous is before and probe.base is not None
    np.testing.assert_allclose(probe.base, of_base, atol=1e-6)
    base = adapter_on_disk(None, model_dir, "float32", SEQUENCES, version=0)
    assert (base.tensors, base.shape, base.probe.base, base.policy.sha256) == (
        b"",
        None,
        None,
        sha256_of(b""),
    )
    np.testing.assert_allclose(base.probe.logprobs, of_base, atol=1e-6)
    with pytest.raises(ConfigError, match=r"base \w{12}\b.* \w{12}\b"):
        adapter_on_disk(adapter_dir, save_base(tmp_path, seed=8), "float32", SEQUENCES, version=1)


def test_delivery_in_bfloat16_without_a_version_before_is_not_blind(
    model_dir: Path, adapter_dir: Path
) -> None:
    sequences = _sequences(model_dir, dtype="bfloat16")
    payload = adapter_on_disk(adapter_dir, model_dir, "bfloat16", sequences, version=1)
    exact = adapter_on_disk(adapter_dir, model_dir, "float32", sequences, version=1)

    def served(logprobs: np.ndarray | None) -> SyncProof:
        assert logprobs is not None
        ack = SyncAck("rollout-0", payload.policy.sha256, logprobs, 0.0, 0.0)
        update = replace(payload, probe=replace(payload.probe, magnified=None))
        return SyncVerifier("bfloat16").check(ack, update)

    assert 0 < served(exact.probe.logprobs).mean_difference < 0.05  # another arithmetic, the same weights
    with pytest.raises(WeightSyncMismatch, match=r"rollout-0 .*base"):
        served(exact.probe.base)
    for factor in (0.5, 2.0):
        model = PeftModel.from_pretrained(load_base(model_dir, "float32"), str(adapter_dir)).eval()
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] *= factor
        with pytest.raises(WeightSyncMismatch):
            served(probe_logprobs(model, sequences))
