"""The probe of a delivery: fixed token sequences, and an adapter on disk as something deliverable.

Used by the learner for every version it publishes and by evaluations for every adapter they sample.

In 16 bits a version is probed a second time under a magnified adapter. One optimiser step of 1e-5 changes a
log-prob of SmolLM2-135M by .002 nats, and rounding by .06. At 8192 times its scale the same adapter changes it by 8
nats, and rounding by .09 to .12. An engine that leaves out a layer or reads another alpha then differs from the
learner by several times its noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch.nn.utils.rnn import pad_sequence

from polyray.config.rollout import RolloutSpec
from polyray.config.task import TaskSpec
from polyray.data.chat import encode_prompt
from polyray.models.adapter import AdapterShape, Magnified, PolicyUpdate, Probe, sha256_of
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.logprobs import sequence_logprobs
from polyray.models.lora import POLICY
from polyray.models.lora_linear import use_base_dtype
from polyray.models.tokenizer import load_tokenizer
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import PolicyVersion
from polyray.weight_sync.evidence import distinct_tokens

PROMPT_TOKENS = 16
"""Last tokens of a prompt that go before random ones: some context, at a cost that does not grow with prompts."""
RANDOM_TOKENS = 8
NOISY_RANDOM_TOKENS = 32
"""Random tokens of a sequence in 16 bits: most evidence for the time that a sequence takes."""
NOISY_TOKENS = 128
"""Distinct tokens of a probe in 16 bits.

Random tokens are noisier than sampled ones, but an adapter moves them more. On SmolLM2-135M a step of 1e-3 moves both
kinds by 3.5 times their noise."""
PASS_TOKENS = 4096
"""In one pass of the backbone, or one sequence: a probe then needs no more memory than a step does."""
MAGNIFIED = 0.2
"""Scale times root mean square of B of a magnified adapter, where A has its usual initial size. Log-probs then change
by 5 to 15 nats in models of any width. At half the size one missing matrix of 210 is often lost in the noise."""
NEARBY_SCALES = (1 - 2.0**-10, 1 + 2.0**-10)
"""They change a log-prob by thousandths of a nat, and round every activation anew."""


def probe_sequences(
    task_spec: TaskSpec, rollout: RolloutSpec, num_probes: int, seed: int, model_dir: Path, dtype: str
) -> tuple[tuple[int, ...], ...]:
    """Ends of training prompts with seeded random tokens after them.

    Random continuations reach parts of the vocabulary that a peaked policy would never sample. There are
    `num_probes`, or in 16 bits as many more as give NOISY_TOKENS tokens, and at most that many sequences.
    """
    tokenizer = load_tokenizer(model_dir)
    task = build_task(task_spec)
    draw = np.random.default_rng(sample_seed(seed, "probe", 0))
    special = set(tokenizer.all_special_ids)
    plain = [token for token in range(len(tokenizer)) if token not in special]
    wanted, random_tokens = (0, RANDOM_TOKENS) if dtype == "float32" else (NOISY_TOKENS, NOISY_RANDOM_TOKENS)
    length = min(random_tokens, rollout.max_completion_tokens)
    sequences: list[tuple[int, ...]] = []
    for index in itertools.count():
        enough = index >= wanted or distinct_tokens(sequences, with_shared=False).sum() >= wanted
        if index >= num_probes and enough:
            break
        prompt = encode_prompt(tokenizer, task.training_prompt(index, seed))
        # One position stays free: an engine that scores a prompt also samples one token after it.
        room = min(PROMPT_TOKENS, rollout.max_model_len - 1 - length)
        sequences.append((*prompt[-room:], *(int(token) for token in draw.choice(plain, length))))
    return tuple(sequences)


def adapter_on_disk(
    adapter_dir: Path | None,
    model_dir: Path,
    dtype: str,
    sequences: tuple[tuple[int, ...], ...],
    version: int,
    previous: np.ndarray | None = None,
) -> PolicyUpdate:
    """An adapter directory (None: the base itself) with the log-probs that prove its delivery.

    `previous`: the log-probs of what the engine serves now, where that is something. Raises ConfigError for what is
    no adapter of this base.
    """
    base = load_base(model_dir, dtype)
    base_logprobs = probe_logprobs(base, sequences)
    if adapter_dir is None:
        probe = Probe(sequences, base_logprobs, previous)
        return PolicyUpdate(PolicyVersion(1, version, sha256_of(b"")), b"", None, probe)
    content, config = read_adapter(adapter_dir, base_fingerprint(model_dir))
    model = PeftModel.from_pretrained(base, str(adapter_dir))
    use_base_dtype(model)
    magnified = magnified_probe(model, sequences)
    probe = Probe(sequences, probe_logprobs(model, sequences), previous, base_logprobs, magnified)
    policy = PolicyVersion(1, version, sha256_of(content))
    return PolicyUpdate(policy, content, AdapterShape.from_peft(config), probe)


@torch.no_grad()
def probe_logprobs(
    model: torch.nn.Module, sequences: Sequence[Sequence[int]], pass_tokens: int = PASS_TOKENS
) -> np.ndarray:
    """Log-probs [sum(len - 1)] float32 of each sequence's tokens from the second on, at temperature 1, eval
    mode.

    An adapter on a 16-bit base is rounded to its dtype by its layers (lora_linear.py), as engines hold it: a step
    too small for 16 bits changes neither side. Equal sequences take equally many forward passes, as ranks that share
    a base must.
    """
    was_training = model.training
    if was_training:  # switching visits every module
        model.eval()
    device = next(model.parameters()).device
    num_rows = max(1, pass_tokens // max(len(row) for row in sequences))
    parts: list[np.ndarray] = []
    for start in range(0, len(sequences), num_rows):
        rows = [torch.tensor(row) for row in sequences[start : start + num_rows]]
        # Right padding needs no mask: a causal model's real tokens never see what comes after them.
        tokens = pad_sequence(rows, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        parts.append(sequence_logprobs(model, tokens, lengths).float().cpu().numpy())
    if was_training:
        model.train()
    return np.concatenate(parts)


def magnified_probe(model: PeftModel, sequences: Sequence[Sequence[int]]) -> Magnified | None:
    """Log-probs under the magnified policy, and at nearby scales; three times the passes of `probe_logprobs`.

    None for a base in float32, for an adapter with B = 0, and for one that is as large already.
    """
    factor = magnification(model) if is_16_bit(model) else 1.0
    if factor <= 1:
        return None

    def at(scale: float) -> np.ndarray:
        with _scaled(model, factor * scale):
            return probe_logprobs(model, sequences)

    return Magnified(factor, at(1.0), np.stack([at(scale) for scale in NEARBY_SCALES]))


def magnification(model: PeftModel) -> float:
    """Factor to MAGNIFIED, a power of two, so that B keeps its digits; 1 for an adapter with B = 0.

    Computed from the weights alone, so that ranks with equal adapters find the same factor.
    """
    squares, count = 0.0, 0
    for layer in _layers(model):
        weights = layer.lora_B[POLICY].weight.detach().double()
        squares += float((layer.scaling[POLICY] * weights).square().sum())
        count += weights.numel()
    size = math.sqrt(squares / count)
    return 2.0 ** round(math.log2(MAGNIFIED / size)) if size else 1.0


def is_16_bit(model: PeftModel) -> bool:
    """Whether the base computes in 16 bits, with its linear layers in 4 bits or not."""
    base: Any = model.get_base_model()
    return base.get_input_embeddings().weight.dtype in (torch.bfloat16, torch.float16)


@contextmanager
def _scaled(model: PeftModel, factor: float) -> Iterator[None]:
    layers = _layers(model)
    before = [layer.scaling[POLICY] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[POLICY] *= factor
        yield
    finally:
        for layer, scale in zip(layers, before, strict=True):
            layer.scaling[POLICY] = scale


def _layers(model: PeftModel) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
