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


def test_fresh_adapter_publishes_the_base(model_dir: Path) -> None:
    policy = _policy(model_dir)
    payload = policy.payload(attempt=2, version=0)
    assert (payload.policy.attempt, payload.policy.version) == (2, 0)
    assert payload.policy.sha256 == sha256_of(payload.tensors)
    assert payload.tensors == adapter_bytes(policy.model)
    expected = AdapterShape(4, 8.0, tuple(sorted(train_config().model.lora.target_modules)))
    assert payload.shape == expected
    base = load_base(model_dir, "float32")
    np.testing.assert_allclose(
        payload.probe.logprobs, probe_logprobs(base, payload.probe.sequences), atol=1e-6
    )
    assert len(payload.probe.sequences) == 3


def test_each_payload_remembers_the_numbers_of_the_one_before(model_dir: Path) -> None:
    policy = _policy(model_dir)
    first = policy.payload(1, 0)
    assert first.probe.previous is None
    move(policy.model)
    second = policy.payload(1, 1)
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


def test_equal_weights_are_equal_bytes(model_dir: Path) -> None:
    one, other = _policy(model_dir).payload(1, 0), _policy(model_dir).payload(3, 0)
    assert one.tensors == other.tensors
    assert one.policy.name == f"policy-a1-v0-{one.policy.sha256[:8]}"
    different_seed = _policy(model_dir, train_config(seed=6)).payload(1, 0)
    assert different_seed.tensors != one.tensors


def test_training_continues_in_the_adapter_of_a_warm_start(model_dir: Path, tmp_path: Path) -> None:
    trained = build_policy(reference=False)
    save_adapter(trained, tmp_path / "sft", {"base_sha256": base_fingerprint(model_dir)})
    config = train_config(model={"warm_start": str(tmp_path / "sft"), "lora": {"rank": 4, "alpha": 8}})
    payload = _policy(model_dir, config).payload(1, 0)
    assert payload.tensors == adapter_bytes(trained)
    np.testing.assert_allclose(
        payload.probe.logprobs, probe_logprobs(trained, payload.probe.sequences), atol=1e-6
    )


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


def test_a_run_without_checkpoints_starts_at_step_zero(model_dir: Path, tmp_path: Path) -> None:
    assert _policy(model_dir).restore(newest_checkpoint(tmp_path)) == Restored(0, None, None, {})


def test_a_checkpoint_brings_back_weights_and_the_coordinators_snapshot(
    model_dir: Path, tmp_path: Path
) -> None:
    policy = _policy(model_dir)
    move(policy.model)
    policy.save(tmp_path, 4, {"version": 4, "pending": [9]})
    resumed = _policy(model_dir)
    assert resumed.restore(newest_checkpoint(tmp_path)) == Restored(
        4, {"version": 4, "pending": [9]}, None, {}
    )
    assert adapter_bytes(resumed.model) == adapter_bytes(policy.model)


def test_a_checkpoint_brings_back_payloads_of_the_snapshot_and_files_of_the_learner(
    model_dir: Path, tmp_path: Path
) -> None:
    policy = _policy(model_dir)
    payloads = {"group-81": b"\x00\x01", "more/group-82": b""}
    policy.save(
        tmp_path,
        4,
        {"version": 4, "files": payloads},
        validation={"history": [[0, 0.5]]},
        files={"best/adapter.safetensors": b"weights"},
    )
    assert _policy(model_dir).restore(newest_checkpoint(tmp_path)) == Restored(
        4,
        {"version": 4, "files": payloads},
        {"history": [[0, 0.5]]},
        {"best/adapter.safetensors": b"weights"},
    )
    (tmp_path / "step-000004" / "files" / "coordinator" / "group-81").write_bytes(b"\x00\x02")
    with pytest.raises(CheckpointError, match=r"\d checkpoints .*valid"):
        newest_checkpoint(tmp_path)


def test_restore_refuses_the_checkpoint_of_another_base(model_dir: Path, tmp_path: Path) -> None:
    other = save_base(tmp_path / "other", seed=4)
    _policy(model_dir).save(tmp_path / "checkpoints", 1, {})
    began, now = base_fingerprint(model_dir)[:12], base_fingerprint(other)[:12]
    with pytest.raises(ConfigError, match=rf"base {began}.*model\.path .*{now}"):
        _policy(other).restore(newest_checkpoint(tmp_path / "checkpoints"))


@pytest.mark.parametrize("now", ["another", "none"])
def test_restore_refuses_the_checkpoint_of_another_warm_start(
    model_dir: Path, tmp_path: Path, now: str
) -> None:
    trained, base = build_policy(reference=False), {"base_sha256": base_fingerprint(model_dir)}
    config = train_config(model={"warm_start": str(tmp_path / "sft"), "lora": {"rank": 4, "alpha": 8}})
    began = save_adapter(trained, tmp_path / "sft", base)
    first = _policy(model_dir, config)
    first.save(tmp_path / "checkpoints", 1, {})
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert _policy(model_dir, config).restore(checkpoint).step == 1
    move(trained)
    digest = save_adapter(trained, tmp_path / "sft", base)
    named = digest[:12] if now == "another" else "none"
    resumed = _policy(model_dir, config if now == "another" else train_config())
    with pytest.raises(ConfigError, match=rf"warm start {began[:12]}.*model\.warm_start .*{named}"):
        resumed.restore(checkpoint)
