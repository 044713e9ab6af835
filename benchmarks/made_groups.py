"""Synthetic groups for measuring learners: drawn lengths, random tokens, rewards 0 and 1 in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.learner import policy_logprobs
from polyray.types import Completion, Group, PolicyVersion, Prompt, ScoredGroup

PROMPT_TOKENS = 16
FIRST_TOKEN = 3
"""First ordinary token; earlier ones are special in the embedded vocabulary."""


def drawn_lengths(draw: np.random.Generator, count: int, longest: int, mean_share: float) -> list[int]:
    """`count` lengths from an exponential distribution with mean `mean_share` x longest, cut to 1 ... longest; the
    first is the longest."""
    lengths = np.clip(draw.exponential(mean_share * longest, count).astype(int), 1, longest)
    lengths[0] = longest
    return lengths.tolist()


def random_tokens(
    draw: np.random.Generator, lengths: Sequence[int], vocabulary: int
) -> tuple[np.ndarray, list[list[int]]]:
    """(prompt, completions) without a token in common but by chance."""
    prompt = draw.integers(FIRST_TOKEN, vocabulary, PROMPT_TOKENS).astype(np.int32)
    return prompt, [draw.integers(FIRST_TOKEN, vocabulary, n).tolist() for n in lengths]


def scored_group(
    model: Any, group_id: int, prompt: np.ndarray, tokens: Sequence[Sequence[int]]
) -> ScoredGroup:
    """These completions as if `model` had just sampled them."""
    logprobs = policy_logprobs(model, prompt, tokens)
    completions = tuple(
        Completion(np.array(row, np.int32), values, "", "stop", index)
        for index, (row, values) in enumerate(zip(tokens, logprobs, strict=True))
    )
    group = Group(group_id, Prompt(str(group_id), ""), prompt, completions, PolicyVersion(1, 0, "0" * 64))
    return with_rewards_in_turns(group)


def with_rewards_in_turns(group: Group) -> ScoredGroup:
    """0, 1, 0, 1, ...: every completion has an advantage, so none is spared its backward pass."""
    rewards_G = (np.arange(len(group.completions)) % 2).astype(float)
    return ScoredGroup(group, rewards_G, np.where(rewards_G == 1, 0, -1))
