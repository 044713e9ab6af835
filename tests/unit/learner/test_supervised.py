"""One supervised step: its value, and that ranks and micro-batches do not change the gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from polyray.config.learner import LearnerSpec
from polyray.data.packing import SupervisedBatch
from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.supervised import demonstration_batches, supervised_step
from tests.unit.tiny_policy import build_base

VOCABULARY = 11


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


def _model() -> Qwen3ForCausalLM:
    return build_base(vocab_size=VOCABULARY)


def _stepper(model: Qwen3ForCausalLM, spec: LearnerSpec) -> Any:
    optimizer = build_optimizer(model.parameters(), spec)
    return partial(supervised_step, model, optimizer, build_scheduler(optimizer, spec))


def _gradient(rank: int, world_size: int, micro_batch_rows: int = 99) -> tuple[Any, float]:
    model = _model().double()
    batches, total = _batches(rank, world_size, micro_batch_rows)
    step = _stepper(model, LearnerSpec(learning_rate=1e-9))
    metrics = step(batches, num_tokens_total=total, world_size=world_size, max_grad_norm=1e9)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), metrics["loss"]


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
    with pytest.raises(ConfigError, match=r"demonstrations_per_step=6\b.*learner\.num_workers=7"):
        _batches(rank=0, world_size=7)


def test_step_is_nats_per_response_token_whatever_ranks_and_micro_batches() -> None:
    expected = torch.zeros((), dtype=torch.float64)
    model = _model().double()
    total = _batches(0, 1)[1]
    for row in map(_row, range(12, 18)):
        logprobs = model(input_ids=torch.tensor([row.token_ids])).logits.log_softmax(-1)[0]
        for position in range(row.response_start, len(row.token_ids)):
            expected = expected - logprobs[position - 1, row.token_ids[position]] / total
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(gradient.abs().max()) > 1e-3
    ranks = [_gradient(rank, 2) for rank in range(2)]
    assert float((ranks[0][0] - ranks[1][0]).abs().max()) > 1e-4
    mean = sum(one for one, _ in ranks) / 2, sum(loss for _, loss in ranks) / 2
    whole, loss = _gradient(0, 1)
    torch.testing.assert_close(whole, gradient, rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(float(expected.detach()))
    for found, its_loss in (_gradient(0, 1, micro_batch_rows=2), mean):
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
        assert its_loss == pytest.approx(loss)


def test_steps_learn_and_report_their_rate() -> None:
    model = _model()
    batches, total = _batches(0, 1)
    step = _stepper(model, LearnerSpec(learning_rate=1e-2, warmup_steps=1))
    steps = [step(batches, num_tokens_total=total, max_grad_norm=0.1) for _ in range(8)]
    assert [step["lr"] for step in steps[:3]] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[0]["grad_norm"] > 0.1
