"""The probe of a delivery: fixed token sequences, and an adapter on disk as something deliverable.

Used by the learner for every version it publishes and by evaluations for every adapter they sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence

from polyray.config.rollout import RolloutSpec
from polyray.config.task import TaskSpec
from polyray.data.chat import encode_prompt
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base, load_tokenizer
from polyray.models.logprobs import sequence_logprobs
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import PolicyVersion
from polyray.weight_sync.proof import distinct_tokens

RANDOM_TOKENS = 8
NOISY_TOKENS = 128
"""Distinct tokens of a probe in 16 bits: enough to tell versions apart that differ by 1.2 of the noise.

Random tokens are noisier than sampled ones, but an adapter moves them more: on SmolLM2-135M a step of 1e-3 moves them
by 3.8 times their noise, and sampled ones by 3.2 times."""
PASS_TOKENS = 4096
"""In one pass of the backbone, or one sequence: a probe then needs no more memory than a step does."""


def probe_sequences(
    task_spec: TaskSpec, rollout: RolloutSpec, num_probes: int, seed: int, model_dir: Path, dtype: str
) -> tuple[tuple[int, ...], ...]:
    """Training prompts with seeded random tokens after them.

    Random continuations reach parts of the vocabulary that a peaked policy would never sample. There are
    `num_probes`, or in 16 bits as many more as give NOISY_TOKENS tokens.
    """
    tokenizer = load_tokenizer(model_dir)
    task = build_task(task_spec)
    draw = np.random.default_rng(sample_seed(seed, "probe", 0))
    special = set(tokenizer.all_special_ids)
    plain = [token for token in range(len(tokenizer)) if token not in special]
    length = min(RANDOM_TOKENS, rollout.max_completion_tokens)
    sequences: list[tuple[int, ...]] = []
    wanted = 0 if dtype == "float32" else NOISY_TOKENS
    for index in itertools.count():
        if index >= num_probes and distinct_tokens(sequences).sum() >= wanted:
            break
        prompt = encode_prompt(tokenizer, task.training_prompt(index, seed))
        # One position stays free: an engine that scores a prompt also samples one token after it.
        room = rollout.max_model_len - 1 - length
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
    probe = Probe(sequences, probe_logprobs(model, sequences), previous, base_logprobs)
    policy = PolicyVersion(1, version, sha256_of(content))
    return PolicyUpdate(policy, content, AdapterShape.from_peft(config), probe)


@torch.no_grad()
def probe_logprobs(
    model: torch.nn.Module, sequences: Sequence[Sequence[int]], pass_tokens: int = PASS_TOKENS
) -> np.ndarray:
    """Log-probs [sum(len - 1)] float32 of each sequence's tokens from the second on, at temperature 1, eval
    mode.

    As many forward passes wherever the sequences are the same, so ranks that share a base make equally many.
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
