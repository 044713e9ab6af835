"""Published and saved parts of a policy: bytes, probes, manifests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from polyray.config.run import TrainConfig
from polyray.errors import CheckpointError, ConfigError
from polyray.learner.policy import Policy, Restored
from polyray.learner.state import newest_checkpoint
from polyray.models.adapter import AdapterShape, sha256_of
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import adapter_bytes, save_adapter
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.tiny_policy import build_policy, move, save_base, train_config

CPU = torch.device("cpu")


def _policy(model_dir: Path, config: TrainConfig | None = None) -> Policy:
    return Policy(config or train_config(), model_dir, "float32", CPU)


def test_payload_holds_bytes_and_probe_of_the_adapter_and_the_probe_before(model_dir: Path) -> None:
    policy, base = _policy(model_dir), load_base(model_dir, "float32")
    first = policy.payload(attempt=2, version=0)
    assert (first.policy.attempt, first.policy.version) == (2, 0)
    assert first.policy.sha256 == sha256_of(first.tensors)
    assert first.tensors == adapter_bytes(policy.model) == _policy(model_dir).payload(3, 0).tensors
    assert first.tensors != _policy(model_dir, train_config(seed=6)).payload(1, 0).tensors
    assert first.shape == AdapterShape(4, 8.0, tuple(sorted(train_config().model.lora.target_modules)))
    assert len(first.probe.sequences) == 3 and first.probe.previous is None
    np.testing.assert_allclose(first.probe.logprobs, probe_logprobs(base, first.probe.sequences), atol=1e-6)
    move(policy.model)
    second = policy.payload(2, 1)
    np.testing.assert_array_equal(second.probe.previous, first.probe.logprobs)
    assert np.abs(second.probe.logprobs - first.probe.logprobs).max() > 1e-2
    assert second.policy.sha256 != first.policy.sha256
    assert second.probe.sequences == first.probe.sequences


def test_adapters_are_magnified_in_16_bits_only(model_dir: Path) -> None:
    policy = Policy(train_config(), model_dir, "bfloat16", CPU)
    assert policy.payload(1, 0).probe.magnified is None  # B = 0: there is nothing to magnify
    move(policy.model, 1e-4)
    magnified = policy.payload(1, 1).probe.magnified
    assert magnified is not None
    assert magnified.factor >= 2
    exact = _policy(model_dir)
    move(exact.model, 1e-4)
    assert exact.payload(1, 1).probe.magnified is None


def test_saved_adapters_load_in_plain_peft_on_the_original_base(model_dir: Path, tmp_path: Path) -> None:
    policy = _policy(model_dir)
    move(policy.model)
    policy.save_version(tmp_path / "versions", attempt=2, version=7)
    policy.save_final(tmp_path / "adapter")
    published = policy.payload(2, 7)
    for directory in (tmp_path / "versions" / "7", tmp_path / "adapter"):
        loaded = PeftModel.from_pretrained(load_base(model_dir, "float32"), str(directory))
        numbers = probe_logprobs(loaded, published.probe.sequences)
        np.testing.assert_allclose(numbers, published.probe.logprobs, atol=1e-6)
        assert (directory / "adapter_model.safetensors").read_bytes() == published.tensors
    manifest = json.loads((tmp_path / "versions" / "7" / "polyray.json").read_text())
    assert manifest == {
        "attempt": 2,
        "run": "tiny",
        "base_sha256": base_fingerprint(model_dir),
        "warm_start_sha256": None,
        "adapter_sha256": published.policy.sha256,
    }
    assert "attempt" not in json.loads((tmp_path / "adapter" / "polyray.json").read_text())


def test_checkpoint_restores_weights_snapshot_payloads_and_files(model_dir: Path, tmp_path: Path) -> None:
    assert _policy(model_dir).restore(newest_checkpoint(tmp_path)) == Restored(0, None, None, {})
    policy, resumed = _policy(model_dir), _policy(model_dir)
    move(policy.model)
    snapshot = {"version": 4, "pending": [9], "files": {"group-81": b"\x00\x01", "more/group-82": b""}}
    validation, files = {"history": [[0, 0.5]]}, {"best/adapter.safetensors": b"weights"}
    policy.save(tmp_path, 4, snapshot, validation=validation, files=files)
    assert resumed.restore(newest_checkpoint(tmp_path)) == Restored(4, snapshot, validation, files)
    assert adapter_bytes(resumed.model) == adapter_bytes(policy.model)
    (tmp_path / "step-000004" / "files" / "coordinator" / "group-81").write_bytes(b"\x00\x02")
    with pytest.raises(CheckpointError, match=r"\d checkpoints .*valid"):
        newest_checkpoint(tmp_path)


def test_restore_continues_its_warm_start_and_refuses_other_bases_and_warm_starts(
    model_dir: Path, tmp_path: Path
) -> None:
    sha256, other = base_fingerprint(model_dir), save_base(tmp_path / "other", seed=4)
    trained, warm, manifest = build_policy(reference=False), tmp_path / "sft", {"base_sha256": sha256}
    config = train_config(model={"warm_start": str(warm), "lora": {"rank": 4, "alpha": 8}})
    began = save_adapter(trained, warm, manifest)[:12]
    first = _policy(model_dir, config)
    payload = first.payload(1, 0)
    assert payload.tensors == adapter_bytes(trained)
    expected = probe_logprobs(trained, payload.probe.sequences)
    np.testing.assert_allclose(payload.probe.logprobs, expected, atol=1e-6)
    first.save(tmp_path / "checkpoints", 1, {})
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert _policy(model_dir, config).restore(checkpoint).step == 1
    with pytest.raises(ConfigError, match=rf"warm start {began}.*model\.warm_start .*none"):
        _policy(model_dir).restore(checkpoint)
    move(trained)
    now = save_adapter(trained, warm, manifest)[:12]
    with pytest.raises(ConfigError, match=rf"warm start {began}.*model\.warm_start .*{now}"):
        _policy(model_dir, config).restore(checkpoint)
    _policy(model_dir).save(tmp_path / "cold", 1, {})
    with pytest.raises(
        ConfigError, match=rf"base {sha256[:12]}.*model\.path .*{base_fingerprint(other)[:12]}"
    ):
        _policy(other).restore(newest_checkpoint(tmp_path / "cold"))
