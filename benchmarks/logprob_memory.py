"""Part of `benchmark learner`: memory of log-probs of a large vocabulary, in chunks and the plain way.

One forward and backward pass of a LoRA on one layer with a real model's vocabulary, so that little else takes
memory; each way in a separate process with its own peak. Called by packed_learner.py.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.measure import Measure, peak_bytes, resident_bytes

LIMITS = {"memory": 0.25, "gradients": 1e-5}
SHAPE: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "intermediate_size": 512, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
ROWS, PROMPT_TOKENS, COMPLETION_TOKENS = 8, 16, 256
Way = Literal["plain", "chunked"]


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward and a backward pass.

    Example:
        Pass(peak_bytes=526_000_000, gradients=(np.array([[.1, -.2]], np.float32),))
    """

    peak_bytes: int
    """Peak memory above the model's own."""
    gradients: tuple[np.ndarray, ...]


def memory_measures() -> list[Measure]:
    """Peak memory of both ways, their ratio, and how far their gradients differ."""
    plain, chunked = (_alone(way) for way in ("plain", "chunked"))
    return [
        Measure("plain log-probs, peak above the model", (plain.peak_bytes / 2**20,), "MiB"),
        Measure("in chunks, peak above the model", (chunked.peak_bytes / 2**20,), "MiB"),
        Measure("... chunks over plain", (chunked.peak_bytes / plain.peak_bytes,), "", LIMITS["memory"]),
        Measure(
            "... largest difference of gradients over the largest gradient",
            (gradient_difference(chunked.gradients, plain.gradients),),
            "",
            LIMITS["gradients"],
        ),
    ]


def gradient_difference(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The worst tensor's largest difference, as a share of that tensor's largest gradient."""
    return max(
        float(np.abs(one - other).max() / np.abs(other).max())
        for one, other in zip(actual, expected, strict=True)
    )


def run_pass(
    way: Way, shape: dict[str, Any] = SHAPE, rows: int = ROWS, completion_tokens: int = COMPLETION_TOKENS
) -> Pass:
    """One pass in this process, over random tokens."""
    import torch

    from benchmarks.learner import random_policy
    from benchmarks.padded import padded_logprobs
    from polyray.models.logprobs import Rows, completion_logprobs

    model = random_policy(shape, torch.device("cpu"), "float32")
    generator = torch.Generator().manual_seed(0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():  # B is zero at first, and then A has no gradient
        for parameter in parameters:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    size = (rows, PROMPT_TOKENS + completion_tokens)
    ids_BL = torch.randint(shape["vocab_size"], size, generator=generator)
    batch = Rows(ids_BL, torch.full((rows,), PROMPT_TOKENS), torch.full((rows,), completion_tokens))
    before = resident_bytes()
    logprobs_BT = padded_logprobs(model, batch) if way == "plain" else completion_logprobs(model, batch)[0]
    (logprobs_BT * torch.linspace(-1, 1, rows)[:, None]).mean().backward()
    gradients = tuple(parameter.grad.numpy() for parameter in parameters if parameter.grad is not None)
    return Pass(peak_bytes() - before, gradients)


def _alone(way: Way) -> Pass:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_pass, way).result()
