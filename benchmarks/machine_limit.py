"""The machine's own limit: a step's floating-point work over the speed of matrix products of the model's shapes.

Work of a step: every prompt and completion token once forward in the engine, and once forward and once backward in
the learner. A LoRA step has no weight gradients of the base, so backward costs as much as forward. Attention scores,
sampling and adapters are left out: a step cannot be faster than this on matrix products of this speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

TURNS = 5
ENGINE_PASSES, LEARNER_PASSES = 1, 2


def shapes(config: Any) -> list[tuple[int, int, int]]:
    """(inputs, outputs, count) of the matrices of a model of the Llama family, its head included."""
    hidden, middle, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    return [
        (hidden, queries, layers),
        (hidden, keys, 2 * layers),
        (queries, hidden, layers),
        (hidden, middle, 2 * layers),
        (middle, hidden, layers),
        (hidden, config.vocab_size, 1),
    ]


def operations_per_token(config: Any) -> float:
    """Floating-point operations of one token's forward pass."""
    return sum(2.0 * inputs * outputs * count for inputs, outputs, count in shapes(config))


@torch.no_grad()
def seconds_per_token(config: Any, dtype: str, rows: int) -> float:
    """Seconds of all products of one token, in batches of `rows`: the fastest of TURNS of each shape."""
    total = 0.0
    for inputs, outputs, count in shapes(config):
        x = torch.randn(rows, inputs).to(getattr(torch, dtype))
        weight = torch.randn(outputs, inputs).to(getattr(torch, dtype))
        taken = []
        for _ in range(TURNS):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            taken.append(time.perf_counter() - started)
        total += count * min(taken) / rows
    return total


def step_limit(
    directory: Path, dtype: str, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
) -> tuple[float, float]:
    """(engine, learner) seconds of a step at least, for these prompts (once each) and completions."""
    config = AutoConfig.from_pretrained(directory)
    tokens = sum(prompt_tokens) + sum(completion_tokens)
    seconds = tokens * seconds_per_token(config, dtype, rows=512)
    return ENGINE_PASSES * seconds, LEARNER_PASSES * seconds
