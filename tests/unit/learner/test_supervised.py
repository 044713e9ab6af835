"""One supervised step: its value, and that ranks and micro-batches do not change the gradient."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from polyray.config.learner import LearnerSpec
from polyray.data.packing import SupervisedBatch
from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.supervised import demonstration_batches, supervised_step

VOCABULARY = 11


def _model(double: bool = True) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=16,
    )
    model = Qwen3ForCausalLM(config)
    return model.double() if double else model


def _row(index: int) -> TokenRow:
    """Rows of different lengths and prompt lengths."""
    length = 3 + index % 4
    tokens = tuple(3 + (index * 5 + position) % (VOCABULARY - 3) for position in range(length))
    return TokenRow(tokens, response_start=1 + index % 2)


def _batches(rank: int, world_size: int, micro_batch_rows: int = 99) -> tuple[list[SupervisedBatch], int]:
    rows = demonstration_batches(
        _row,
        step=2,
        rank=rank,
        world_size=world_size,
        rows_per_step=6,
        micro_batch_rows=micro_batch_rows,
        pad_id=0,
    )
    return rows.batches, rows.num_tokens_total


def _gradients(rank: int, world_size: int, micro_batch_rows: int = 99) -> tuple[list[torch.Tensor], float]:
    model = _model()
    spec = LearnerSpec(learning_rate=1e-9)
    optimizer = build_optimizer(model.parameters(), spec)
    batches, total = _batches(rank, world_size, micro_batch_rows)
    metrics = supervised_step(
        model,
        optimizer,
        build_scheduler(optimizer, spec),
        batches,
        num_tokens_total=total,
        world_size=world_size,
        max_grad_norm=1e9,
    )
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return gradients, metrics["loss"]


def test_ranks_share_the_rows_of_a_step() -> None:
    rows = [_row(index) for index in range(12, 18)]
    one, total = _batches(rank=0, world_size=1)
    assert total == sum(row.num_targets for row in rows)
    assert one[0].response_mask_BT.sum() == total
    shares = [_batches(rank, 2) for rank in range(2)]
    assert [share[1] for share in shares] == [total, total]
    found = [ids for share, _ in shares for ids in share[0].token_ids_BT.tolist()]
    expected = [list(row.token_ids) for row in rows[0::2] + rows[1::2]]
    assert [[token for token in ids if token != 0] for ids in found] == expected


def test_two_half_ranks_average_to_the_gradient_of_one() -> None:
    whole, loss = _gradients(0, 1)
    (first, first_loss), (second, second_loss) = _gradients(0, 2), _gradients(1, 2)
    for expected, a, b in zip(whole, first, second, strict=True):
        torch.testing.assert_close((a + b) / 2, expected, rtol=1e-9, atol=1e-12)
    assert (first_loss + second_loss) / 2 == pytest.approx(loss)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-4


def test_micro_batches_do_not_change_the_gradient() -> None:
    whole, loss = _gradients(0, 1)
    parts, parts_loss = _gradients(0, 1, micro_batch_rows=2)
    for expected, found in zip(whole, parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert parts_loss == pytest.approx(loss)


def test_loss_is_nats_per_response_token() -> None:
    model = _model()
    batches, total = _batches(0, 1)
    with torch.no_grad():
        expected = 0.0
        for index in range(12, 18):
            row = _row(index)
            ids = torch.tensor([row.token_ids])
            logprobs = model(input_ids=ids).logits.log_softmax(-1)[0]
            expected -= sum(
                float(logprobs[position - 1, row.token_ids[position]])
                for position in range(row.response_start, len(row.token_ids))
            )
    assert _gradients(0, 1)[1] == pytest.approx(expected / total)
    assert expected / total == pytest.approx(math.log(VOCABULARY), abs=0.3)
    assert len(batches) == 1


def test_a_step_learns_and_reports_the_rate_it_used() -> None:
    model = _model(double=False)
    spec = LearnerSpec(learning_rate=1e-2, warmup_steps=1)
    optimizer = build_optimizer(model.parameters(), spec)
    scheduler = build_scheduler(optimizer, spec)
    batches, total = _batches(0, 1)
    steps = [
        supervised_step(model, optimizer, scheduler, batches, num_tokens_total=total, max_grad_norm=0.1)
        for _ in range(8)
    ]
    assert [step["lr"] for step in steps[:3]] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[0]["grad_norm"] > 0.1


def test_more_ranks_than_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"demonstrations_per_step=6\b.*learner\.num_workers=7"):
        _batches(rank=0, world_size=7)
