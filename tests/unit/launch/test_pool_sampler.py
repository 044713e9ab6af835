"""Evaluation proves every adapter before it samples it; in 16 bits with the base as reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polyray.config.run import EvaluateConfig
from polyray.errors import WeightSyncMismatch
from polyray.launch.fleet import pool_sampler
from polyray.models.adapter import PolicyUpdate
from polyray.models.base_files import base_fingerprint
from polyray.models.lora import save_adapter
from polyray.weight_sync.proof import SyncAck
from tests.unit.tiny_policy import build_policy, save_base


@dataclass
class FakePool:
    """One engine that rounds like the learner; with `ignores_adapters` it always serves the base."""

    settings: Any
    ignores_adapters: bool = False
    delivered: list[PolicyUpdate] = field(default_factory=list[PolicyUpdate])

    def repair(self) -> None:
        return

    def sample(self, requests: object) -> list[Any]:
        return []

    def deliver(self, update: PolicyUpdate, timeout_s: float) -> list[SyncAck]:
        self.delivered.append(update)
        logprobs, magnified = update.probe.logprobs, update.probe.magnified
        larger = None if magnified is None else magnified.logprobs
        if self.ignores_adapters and update.probe.base is not None:
            logprobs = update.probe.base
            larger = None if magnified is None else update.probe.base
        noise = np.random.default_rng(len(self.delivered)).normal(0, 1e-3, logprobs.shape)
        answer = logprobs + noise.astype(np.float32) * (self.settings.dtype != "float32")
        return [SyncAck("rollout-0", update.policy.sha256, answer, 0.0, 0.0, larger)]


@pytest.fixture(scope="module")
def dirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Directories of a base and of an adapter on it."""
    model_dir = save_base(tmp_path_factory.mktemp("base"))
    adapter = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(build_policy(reference=False), adapter, {"base_sha256": base_fingerprint(model_dir)})
    return model_dir, adapter


def _sample(dirs: tuple[Path, Path], dtype: str, *, ignores_adapters: bool = False) -> list[int]:
    """Versions that reached the pool when the adapter was evaluated first, and then the base."""
    model_dir, adapter = dirs
    values = {"name": "evaluation", "adapters": {"trained": str(adapter), "base": None}}
    config = EvaluateConfig.model_validate(values)
    pool: Any = FakePool(SimpleNamespace(model_dir=str(model_dir), dtype=dtype), ignores_adapters)
    sample = pool_sampler(config, pool)
    for name, arm in config.adapters.items():
        assert list(sample(name, arm.adapter, ())) == []
    return [update.policy.version for update in pool.delivered]


def test_base_is_proven_before_the_first_adapter_in_16_bits(dirs: tuple[Path, Path]) -> None:
    assert _sample(dirs, "bfloat16") == [-1, 0, 1]
    assert _sample(dirs, "float32") == [0, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_adapter_that_the_engine_ignores_is_not_sampled(dirs: tuple[Path, Path], dtype: str) -> None:
    with pytest.raises(WeightSyncMismatch):
        _sample(dirs, dtype, ignores_adapters=True)
