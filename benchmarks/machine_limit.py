"""The machine's own limit: a step's floating-point work over the speed of matrix products of the model's shapes.

Work of a step: every prompt and completion token once forward in the engine, and once forward and once backward in
the learner. A LoRA step has no weight gradients of the base, so backward costs as much as forward. Attention scores,
sampling and adapters are left out: a step cannot be faster than this on matrix products of this speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from polyray.capacity.shapes import ModelShape, shape_of
from polyray.config.model import ModelSpec

MACHINE = ("generate at the limit", "learn at the limit")
"""Names of the two parts of a step that have a limit."""
TURNS = 5
ROWS = 512
"""Tokens of a product, about those of a small step."""
ENGINE_PASSES, LEARNER_PASSES = 1, 2


def step_limit(
    directory: Path, dtype: str, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
) -> tuple[float, float]:
    """(engine, learner) seconds of a step at least, for these prompts (once each) and completions."""
    shape = shape_of(ModelSpec(path=str(directory)))
    assert shape is not None
    tokens = sum(prompt_tokens) + sum(completion_tokens)
    seconds = tokens * _seconds_per_token(shape, dtype)
    return ENGINE_PASSES * seconds, LEARNER_PASSES * seconds


def _seconds_per_token(shape: ModelShape, dtype: str) -> float:
    """Seconds of all products of one token's forward pass: the fastest of TURNS of each matrix."""
    layer = sum(_seconds(inputs, outputs, dtype) for inputs, outputs in shape.linear.values())
    return shape.layers * layer + _seconds(shape.hidden, shape.vocabulary, dtype)


def _seconds(inputs: int, outputs: int, dtype: str) -> float:
    import torch

    from polyray.models.products import product

    x = torch.randn(ROWS, inputs).to(getattr(torch, dtype))
    weight = torch.randn(outputs, inputs).to(getattr(torch, dtype))
    taken = []
    for _ in range(TURNS):
        started = time.perf_counter()
        product(x, weight)
        taken.append(time.perf_counter() - started)
    return min(taken) / ROWS
