"""Size of a learner's micro batches, where the configuration leaves it open.

A pass keeps activations of every token for its backward pass. Large passes save little time: SmolLM2-135M on one
core takes as long with 230 tokens as with 930, in half the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from polyray.capacity.memory import GIB, activations, dtype_on, layer_activations, sft_logits
from polyray.capacity.shapes import shape_of
from polyray.config.learner import LearnerSpec
from polyray.config.model import ModelSpec
from polyray.config.run import SftConfig, TrainConfig

ON_CPU, ON_GPU = GIB, 8 * GIB
"""Bytes that one pass keeps."""
ROWS = 32
"""Rows of a pass of a model of unknown shape."""

ConfigT = TypeVar("ConfigT", TrainConfig, SftConfig)


def with_micro_batch(config: ConfigT, model_dir: Path | None = None) -> ConfigT:
    """The configuration with its micro batches decided, for the base in `model_dir` once that is known."""
    model = config.model if model_dir is None else config.model.model_copy(update={"path": str(model_dir)})
    learner = config.learner.model_copy(update=_decided(config, model))
    return config.model_copy(update={"learner": learner})


def micro_batch_line(config: TrainConfig | SftConfig) -> str:
    """Size and reason, for people."""
    learner = config.learner
    if learner.micro_batch_tokens is not None:
        return f"{learner.micro_batch_tokens} tokens: learner.micro_batch_tokens says so"
    if learner.micro_batch_rows is not None:
        return f"{learner.micro_batch_rows} rows: learner.micro_batch_rows says so"
    decided = _decided(config, config.model)
    if shape_of(config.model) is None:
        return f"{decided['micro_batch_rows']} rows: the shape of the base is not known"
    unit = "tokens" if isinstance(config, TrainConfig) else "rows"
    return f"{decided[f'micro_batch_{unit}']} {unit}: they keep {_budget(learner) / GIB:g} GiB for the backward pass"


def _decided(config: TrainConfig | SftConfig, model: ModelSpec) -> dict[str, int]:
    learner = config.learner
    if learner.micro_batch_rows is not None:
        return {}
    shape = shape_of(model)
    if shape is None:
        return {"micro_batch_rows": ROWS}
    lora, dtype = model.lora, dtype_on(model, gpu=learner.use_gpu)
    per_layer = layer_activations(shape, dtype, lora.rank, lora.target_modules, lora.dropout > 0)
    per_token = activations(per_layer, shape, dtype, checkpointed=learner.gradient_checkpointing)
    # Demonstrations keep all their logits; those of samples are computed again, chunk by chunk.
    demonstrated = _budget(learner) // (per_token + sft_logits(shape, 1))
    if isinstance(config, SftConfig):
        return {"micro_batch_rows": max(1, demonstrated // config.max_tokens)}
    longest = config.rollout.max_model_len if config.supervised is None else config.supervised.max_tokens
    rows = {"micro_batch_rows": max(1, demonstrated // longest)}
    if learner.micro_batch_tokens is not None:
        return rows
    return rows | {"micro_batch_tokens": max(1, _budget(learner) // per_token)}


def _budget(learner: LearnerSpec) -> int:
    return ON_GPU if learner.use_gpu else ON_CPU
