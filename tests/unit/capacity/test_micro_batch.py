"""Sizes of micro batches, against bytes of a pass counted by hand."""

from __future__ import annotations

from typing import Any

from polyray.capacity.memory import GIB
from polyray.capacity.micro_batch import micro_batch_line, with_micro_batch
from polyray.config.loader import build_config
from polyray.config.model import LINEAR_MODULES
from polyray.config.run import SftConfig, TrainConfig

MODEL: dict[str, Any] = {
    "path": "smollm2",
    "lora": {"rank": 16, "dropout": 0.0, "target_modules": LINEAR_MODULES},
}
PER_TOKEN = 30 * (
    4 * (2 * 576 + 2) + 4 * 2 * (576 + 192) + 4 * 9 + 3 * 4 * 1536 + 4 * (2 * 576 + 1536) + 4 * 16 * 7
)
"""Bytes of SmolLM2-135M in float32 with adapters of rank 16 on all modules."""


def _train(**sections: Any) -> TrainConfig:
    rollout = {"max_prompt_tokens": 64, "max_completion_tokens": 20}
    return build_config(TrainConfig, {"name": "r", "model": MODEL, "rollout": rollout, **sections})


def test_micro_batch_keeps_a_gib_for_the_backward_pass() -> None:
    learner = with_micro_batch(_train()).learner
    assert learner.micro_batch_tokens == GIB // PER_TOKEN
    assert learner.micro_batch_rows == GIB // (PER_TOKEN + 49152 * 16) // 84
    assert micro_batch_line(_train()).startswith(f"{learner.micro_batch_tokens} tokens: they keep 1 GiB")
    learner = with_micro_batch(_train(learner={"gradient_checkpointing": True})).learner
    assert learner.micro_batch_tokens == GIB // (30 * 4 * 576 + PER_TOKEN // 30)


def test_configured_micro_batch_stays() -> None:
    rows = _train(learner={"micro_batch_rows": 5})
    assert with_micro_batch(rows) == rows
    assert micro_batch_line(rows).startswith("5 rows")
    tokens = with_micro_batch(_train(learner={"micro_batch_tokens": 7})).learner
    assert tokens.micro_batch_tokens == 7


def test_micro_batch_of_sft_counts_all_logits() -> None:
    config = build_config(SftConfig, {"name": "r", "model": MODEL, "max_tokens": 96})
    learner = with_micro_batch(config).learner
    assert learner.micro_batch_tokens is None
    assert learner.micro_batch_rows == GIB // (PER_TOKEN + 49152 * 16) // 96
    assert micro_batch_line(config).startswith(f"{learner.micro_batch_rows} rows: they keep 1 GiB")


def test_micro_batch_of_an_unknown_shape_is_a_number_of_rows() -> None:
    config = _train(model={"path": "someone/Else-7B"})
    assert with_micro_batch(config).learner.micro_batch_rows == 32
    assert with_micro_batch(config).learner.micro_batch_tokens is None
    assert "not known" in micro_batch_line(config)
