"""GPU memory that a model's shape asks for: of one learner rank and of one engine. Estimates, from arithmetic alone.

Weights, adapters, optimiser, keys and values, and the tensors that a block keeps for its backward pass are counted;
what a driver, its libraries and an allocator take beside them is a constant for each, and a guess. Bytes throughout.
How these become GPUs is placement.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyray.capacity.shapes import ModelShape
from polyray.config.model import ModelSpec
from polyray.models.limits import LOGITS_PER_CHUNK
from polyray.rollout.vllm_build import VLLM_RANKS

GIB = 2**30
BYTES = {"bfloat16": 2, "float32": 4}
"""Bytes of one number."""
BLOCK, OUTER_BLOCK = 64, 256
"""Block sizes of NF4: weights that share a scale, and scales that share one if they are quantised, too."""
LEARNER_OVERHEAD = int(1.5 * GIB)
"""CUDA context, libraries' workspaces, fragments: a guess."""
ENGINE_OVERHEAD = int(2.5 * GIB)
"""The same, and captured graphs: a guess."""
RL_LOGIT_BYTES = 18
"""Bytes of one logit in a chunk: as it comes (2), float32, its log-softmax, probabilities, and their product (4
each).
"""
SFT_LOGIT_BYTES = 16
"""Bytes of one logit in SFT, which keeps all: as it comes, unpadded (2 each), float32, log-softmax, gradient (4
each).
"""
SAMPLING_LOGIT_BYTES = 12
"""Bytes of one logit of the sampler: float32, sorted or scaled, log-softmax."""
GATHERED_BLOCKS = 3
"""Blocks of a sharded base that are whole on a rank at a time: current, next, and the receive buffer."""


def dtype_on(model: ModelSpec, *, gpu: bool) -> str:
    """dtype of the base there."""
    return model.dtype if model.dtype != "auto" else "bfloat16" if gpu else "float32"


def base_weights(shape: ModelShape, dtype: str, quantization: str, *, double: bool) -> int:
    """Bytes of the base.

    In 4 bits every weight of a linear layer takes half a byte and its share of a scale. `double`: scales take a
    byte each, and four for every block of them, else four each, as an engine unpacks them.
    """
    if quantization == "none":
        return shape.parameters * BYTES[dtype]
    blocks = shape.linear_parameters // BLOCK
    scales = blocks + 4 * (blocks // OUTER_BLOCK) if double else 4 * blocks
    others = (shape.parameters - shape.linear_parameters) * BYTES[dtype]
    return shape.linear_parameters // 2 + scales + others


def unpacked(shape: ModelShape, dtype: str, quantization: str) -> int:
    """Bytes of the largest 4-bit matrix, which is unpacked to the dtype for its product."""
    if quantization == "none":
        return 0
    return max(inputs * outputs for inputs, outputs in shape.linear.values()) * BYTES[dtype]


def adapter_states(lora_parameters: int, *, reference: bool) -> int:
    """float32: the adapter, its gradient, two moments of Adam, and in RL the frozen reference."""
    return lora_parameters * 4 * (5 if reference else 4)


def sharded_weights(shape: ModelShape, dtype: str, ranks: int) -> tuple[int, int, int]:
    """(what each rank has whole, its part of the blocks, gathered blocks) of a base that ranks share."""
    blocks, size = shape.layers * shape.block_parameters, BYTES[dtype]
    gathered = min(GATHERED_BLOCKS, shape.layers) * shape.block_parameters
    return (shape.parameters - blocks) * size, -(-blocks // ranks) * size, gathered * size


def layer_activations(
    shape: ModelShape, dtype: str, rank: int, targets: Sequence[str], dropout: bool = False
) -> int:
    """Bytes per token that one block keeps for its backward pass, its base frozen, with fused attention.

    Modules with one input share it. With dropout each adapted module keeps its own copy, and the mask.
    """
    size = BYTES[dtype]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    modules = [name for name in shape.linear if name in targets]
    norms = 4 * (2 * shape.hidden + 2)  # the input in float32, and one scale per norm
    if shape.qk_norm:
        norms += 4 * (queries + keys + shape.heads + shape.kv_heads)
    attention = size * 2 * (queries + keys) + 4 * shape.heads  # q, output, k, v; the sums of each head
    feed_forward = 3 * size * shape.intermediate
    inputs = {name: shape.linear[name][0] for name in modules}
    # o_proj reads values that attention keeps anyway.
    shared = {"attention": ("q_proj", "k_proj", "v_proj"), "feed_forward": ("gate_proj", "up_proj")}
    copies = shape.hidden * sum(any(name in inputs for name in names) for names in shared.values())
    copies += inputs.get("down_proj", 0)
    dropped = (size + 1) * sum(inputs.values()) if dropout else 0
    return norms + attention + feed_forward + size * (copies + rank * len(modules)) + dropped


def activations(per_layer: int, shape: ModelShape, dtype: str, *, checkpointed: bool) -> int:
    """Bytes per token of all blocks; checkpointed: the input of each and one whole block, which is computed again."""
    if not checkpointed:
        return shape.layers * per_layer
    return shape.layers * BYTES[dtype] * shape.hidden + per_layer


def rl_logits(shape: ModelShape, tokens: int) -> int:
    """Bytes of the logits of one chunk of positions, or of all positions if they are fewer.

    The probe of a delivery computes its log-probs in the same chunks, after a step's activations are gone, so it
    adds nothing.
    """
    positions = min(tokens, max(1, LOGITS_PER_CHUNK // shape.vocabulary))
    return positions * shape.vocabulary * RL_LOGIT_BYTES


def sft_logits(shape: ModelShape, tokens: int) -> int:
    """Bytes of the logits of a whole micro batch."""
    return tokens * shape.vocabulary * SFT_LOGIT_BYTES


def kv_bytes_per_token(shape: ModelShape, dtype: str) -> int:
    """Keys and values of one token in an engine."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * BYTES[dtype]


def lora_slots(shape: ModelShape, dtype: str, rank: int, slots: int) -> int:
    """Bytes of an engine's adapters of every linear layer, at the next rank that its kernels support."""
    engine_rank = next((known for known in VLLM_RANKS if known >= rank), rank)
    return slots * shape.lora_parameters(engine_rank) * BYTES[dtype]


def sampling_logits(shape: ModelShape, sequences: int) -> int:
    """Bytes of the logits of one decoding step."""
    return sequences * shape.vocabulary * SAMPLING_LOGIT_BYTES
