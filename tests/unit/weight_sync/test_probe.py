"""The probe's sequences, and adapters on disk as deliverable versions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from polyray.config.delivery import DeliverySpec
from polyray.config.rollout import RolloutSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, WeightSyncMismatch
from polyray.learner.embedded import build_tokenizer
from polyray.models.adapter import AdapterShape, sha256_of
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import save_adapter
from polyray.tasks import build_task
from polyray.weight_sync.probe import NOISY_TOKENS, adapter_on_disk, probe_logprobs, probe_sequences
from polyray.weight_sync.proof import SyncAck, SyncProof, check_delivery, distinct_tokens
from tests.unit.tiny_policy import build_base, build_policy, save_base

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


def _sequences(
    model_dir: Path, seed: int = 0, dtype: str = "float32", **rollout: int
) -> tuple[tuple[int, ...], ...]:
    return probe_sequences(HiddenTrapGridSpec(), RolloutSpec(**rollout), 5, seed, model_dir, dtype)  # type: ignore[arg-type]


def test_probes_are_training_prompts_with_eight_random_plain_tokens(model_dir: Path) -> None:
    sequences = _sequences(model_dir)
    task, tokenizer = build_task(HiddenTrapGridSpec()), build_tokenizer()
    for index, sequence in enumerate(sequences):
        prompt = tokenizer.encode(task.training_prompt(index, 0).text)
        assert list(sequence[: len(prompt)]) == prompt
        assert len(sequence) == len(prompt) + 8
        assert all(3 <= token < 28 for token in sequence[len(prompt) :])
    assert len({sequence[-8:] for sequence in sequences}) == 5


def test_probes_in_16_bits_are_as_many_as_a_sign_test_needs(model_dir: Path) -> None:
    exact, noisy = _sequences(model_dir), _sequences(model_dir, dtype="bfloat16")
    assert len(exact) == 5 and noisy[:5] == exact
    assert distinct_tokens(noisy).sum() >= NOISY_TOKENS > distinct_tokens(noisy[:-1]).sum()


def test_probes_depend_on_the_seed_alone(model_dir: Path) -> None:
    assert _sequences(model_dir) == _sequences(model_dir)
    assert _sequences(model_dir, seed=1) != _sequences(model_dir)


def test_probes_fit_an_engine_that_samples_one_token_after_them(model_dir: Path) -> None:
    roomy = _sequences(model_dir)
    tight = _sequences(model_dir, max_prompt_tokens=6, max_completion_tokens=4)
    for sequence, full in zip(tight, roomy, strict=True):
        assert len(sequence) == 6 + 4 - 1
        assert sequence[:-4] == full[:10][-5:]  # the prompt keeps its end


def test_an_adapter_on_disk_becomes_a_version_that_the_model_proves(
    model_dir: Path, adapter_dir: Path
) -> None:
    payload = adapter_on_disk(adapter_dir, model_dir, "float32", SEQUENCES, version=4)
    content = (adapter_dir / "adapter_model.safetensors").read_bytes()
    assert payload.tensors == content
    assert (payload.policy.attempt, payload.policy.version) == (1, 4)
    assert payload.policy.sha256 == sha256_of(content)
    assert payload.shape == AdapterShape.from_peft(
        json.loads((adapter_dir / "adapter_config.json").read_text())
    )
    expected = probe_logprobs(build_policy(reference=False), SEQUENCES)
    np.testing.assert_allclose(payload.probe.logprobs, expected, atol=1e-6)
    assert payload.probe.sequences == SEQUENCES
    assert payload.probe.previous is None


def test_base_version_has_no_bytes(model_dir: Path) -> None:
    payload = adapter_on_disk(None, model_dir, "float32", SEQUENCES, version=0)
    assert (payload.tensors, payload.shape) == (b"", None)
    assert payload.policy.sha256 == sha256_of(b"")
    np.testing.assert_allclose(payload.probe.logprobs, probe_logprobs(build_base(), SEQUENCES), atol=1e-6)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, adapter_dir: Path) -> None:
    other = save_base(tmp_path / "other", seed=8)
    with pytest.raises(ConfigError, match=r"base \w{12}\b.* \w{12}\b"):
        adapter_on_disk(adapter_dir, other, "float32", SEQUENCES, version=1)


def test_saved_adapter_records_base_and_previous_version(model_dir: Path, adapter_dir: Path) -> None:
    before = np.zeros(5, np.float32)
    payload = adapter_on_disk(adapter_dir, model_dir, "float32", SEQUENCES, version=4, previous=before)
    assert payload.probe.previous is before and payload.probe.base is not None
    np.testing.assert_allclose(payload.probe.base, probe_logprobs(build_base(), SEQUENCES), atol=1e-6)
    assert adapter_on_disk(None, model_dir, "float32", SEQUENCES, version=0).probe.base is None


def test_delivery_in_bfloat16_without_a_version_before_is_not_blind(
    model_dir: Path, adapter_dir: Path
) -> None:
    sequences = _sequences(model_dir, dtype="bfloat16")
    payload = adapter_on_disk(adapter_dir, model_dir, "bfloat16", sequences, version=1)
    exact = adapter_on_disk(adapter_dir, model_dir, "float32", sequences, version=1)
    tolerance = DeliverySpec().tolerance_for("bfloat16")

    def served(logprobs: np.ndarray | None) -> SyncProof:
        assert logprobs is not None
        ack = SyncAck("rollout-0", payload.policy.sha256, logprobs, 0.0, 0.0)
        return check_delivery(ack, payload.policy, payload.probe, tolerance)

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
