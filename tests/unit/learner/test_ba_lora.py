"""BA-LoRA-style SFT through the loop: the sum of its terms, and an adapter that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polyray.algorithms import consistency_loss, masked_cross_entropy, spectral_loss, top_entropy_loss
from polyray.config.run import SftConfig
from polyray.config.supervised import BaLoraSpec
from polyray.data.packing import collate
from polyray.data.token_rows import TokenRow
from polyray.learner.supervised_loop import SupervisedRun, run_supervised
from polyray.learner.supervised_objectives import build_batch_loss
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import attach_adapter
from polyray.models.pissa import start_from_principal_components
from polyray.runs.jsonl import read_jsonl
from tests.unit.tiny_policy import build_base, build_policy, move


class Interrupted(Exception):
    """In place of a kill."""


def _config(**objective: Any) -> SftConfig:
    return SftConfig.model_validate(
        {
            "name": "tiny",
            "model": {"lora": {"rank": 4, "alpha": 8}},
            "demonstrations_per_step": 4,
            "max_tokens": 32,
            "objective": {"type": "ba_lora", **objective},
            "learner": {"steps": 4, "learning_rate": 1e-2, "warmup_steps": 0, "checkpoint_every": 2},
        }
    )


def _run(model_dir: Path, run_dir: Path, stop_after: int | None = None) -> Path:
    def reported(metrics: dict[str, float]) -> None:
        if metrics["step"] == stop_after:
            raise Interrupted

    run = SupervisedRun(_config(), model_dir, run_dir, "float32", torch.device("cpu"), 0, 1)
    run_supervised(run, lambda model: model, reported)
    return run_dir / "adapter"


def test_the_loss_is_the_weighted_sum_against_the_model_without_adapters() -> None:
    rows = [TokenRow((1, 5, 9, 4, 7, 2), 3), TokenRow((1, 8, 6, 2), 2)]
    batch = collate(rows, 0)
    policy, base = build_policy(reference=False, moved=False), build_base()
    start_from_principal_components(policy)
    spec = BaLoraSpec(
        consistency_weight=0.3, diversity_weight=0.2, spectral_weight=0.1, top_tokens=5, top_values=2
    )
    loss = build_batch_loss(spec)(policy, batch)
    first = batch.first_target
    targets, mask = batch.token_ids_BT[:, first:], batch.response_mask_BT[:, first:]

    def logits(model: torch.nn.Module) -> torch.Tensor:
        return model(input_ids=batch.token_ids_BT).logits[:, first - 1 : -1]

    at_start = consistency_loss(logits(policy), logits(base), mask)[0]
    assert float(at_start.detach()) == pytest.approx(0, abs=1e-5)
    move(policy)
    loss = build_batch_loss(spec)(policy, batch)
    ours, theirs = logits(policy), logits(base)
    expected = (
        masked_cross_entropy(ours, targets, mask)[0]
        + 0.3 * consistency_loss(ours, theirs, mask)[0]
        + 0.2 * top_entropy_loss(ours, mask, top=5)[0]
        + 0.1 * 5 * spectral_loss(ours, mask, top=2)
    )
    assert float(consistency_loss(ours, theirs, mask)[0].detach()) > 0.1
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert mask.sum() == 5


def test_the_adapter_is_plain_lora_on_the_original_base_and_a_resumed_run_is_the_same(
    model_dir: Path, tmp_path: Path
) -> None:
    adapter = _run(model_dir, tmp_path / "whole")
    with pytest.raises(Interrupted):
        _run(model_dir, tmp_path / "broken", stop_after=2)
    again = _run(model_dir, tmp_path / "broken")
    weights = "adapter_model.safetensors"
    assert (again / weights).read_bytes() == (adapter / weights).read_bytes()
    losses = [line["loss"] for line in read_jsonl(tmp_path / "whole/metrics.jsonl")]
    assert losses[-1] < losses[0]
    sha256 = base_fingerprint(model_dir)
    _, config = read_adapter(adapter, sha256)
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    spec = _config().model.lora.model_copy(update={"rank": 8, "alpha": 16})
    loaded = attach_adapter(load_base(model_dir, "float32"), spec, adapter, base_sha256=sha256, seed=0)
    tokens = torch.tensor([[1, 5, 9, 4, 7, 2]])
    with torch.no_grad():
        change = loaded(input_ids=tokens).logits - load_base(model_dir, "float32")(input_ids=tokens).logits
    assert float(change.abs().max()) > 0.01
