"""BA-LoRA-style SFT: the sum of its terms, and an adapter that plain PEFT loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyray.algorithms import consistency_loss, masked_cross_entropy, spectral_loss, top_entropy_loss
from polyray.config.model import LoraSpec
from polyray.config.supervised import BaLoraSpec
from polyray.data.packing import collate
from polyray.data.token_rows import TokenRow
from polyray.learner.supervised_objectives import build_batch_loss
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import attach_adapter
from polyray.models.pissa import start_from_principal_components
from tests.unit.learner.sft_fixtures import Interrupted, metrics_of, run_sft, sft_config
from tests.unit.tiny_policy import build_base, build_policy, move


def test_ba_lora_loss_is_the_weighted_sum_against_the_model_without_adapters() -> None:
    rows = [TokenRow((1, 5, 9, 4, 7, 2), 3), TokenRow((1, 8, 6, 2), 2)]
    batch = collate(rows, 0)
    policy, base = build_policy(reference=False, moved=False), build_base()
    start_from_principal_components(policy)
    spec = BaLoraSpec(
        consistency_weight=0.3, diversity_weight=0.2, spectral_weight=0.1, top_tokens=5, top_values=2
    )
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


def test_interrupted_ba_lora_run_gives_the_same_plain_adapter_on_the_original_base(
    model_dir: Path, tmp_path: Path
) -> None:
    config = sft_config(
        objective={"type": "ba_lora"}, model={"lora": {"rank": 4, "alpha": 8}}, learner={"steps": 4}
    )
    adapter = run_sft(config, model_dir, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_sft(config, model_dir, tmp_path / "broken", stop_after=2)
    assert run_sft(config, model_dir, tmp_path / "broken") == adapter
    losses = [line["loss"] for line in metrics_of(tmp_path / "whole")]
    assert losses[-1] < losses[0]
    base, spec = load_base(model_dir, "float32"), LoraSpec(rank=8, alpha=16)
    sha256 = base_fingerprint(model_dir)
    loaded = attach_adapter(base, spec, tmp_path / "whole/adapter", base_sha256=sha256, seed=0)
    tokens = torch.tensor([[1, 5, 9, 4, 7, 2]])
    with torch.no_grad():
        change = loaded(input_ids=tokens).logits - load_base(model_dir, "float32")(input_ids=tokens).logits
    assert float(change.abs().max()) > 0.01
