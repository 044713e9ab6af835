"""Who picks one of the k candidates a user is shown: a registry of scores, higher is preferred.

A selector scores each sample on its own; USQ@k (polyray.metrics.selection) is the expected quality of the
candidate with the highest score, uniform among ties. A selector that is the reward itself makes USQ@k the
best of k by construction, so it is an upper bound, not a user. Used by scoring.py; adding one = one function
and one line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import SampleRecord

Selector = Callable[[Sequence[SampleRecord]], np.ndarray]
"""Samples of one prompt [G] -> scores [G] float64."""


def by_reward(samples: Sequence[SampleRecord]) -> np.ndarray:
    """The oracle: USQ@k is then the expected best of k (pass@k for binary rewards)."""
    return np.array([sample.reward for sample in samples], dtype=np.float64)


def by_logprob(samples: Sequence[SampleRecord]) -> np.ndarray:
    """The model's own likelihood: the sum of the rollout log-probs of all tokens, end token included.

    The sum is log pi(completion | prompt), so the pick is the most likely candidate; a mean per token would
    prefer long candidates with a few safe tokens. Raises DataError where a sample carries no log-prob.
    """
    scores = np.array([sample.logprob for sample in samples], dtype=np.float64)
    if np.isnan(scores).any():
        sample = samples[int(np.flatnonzero(np.isnan(scores))[0])]
        raise DataError(
            f"sample {sample.sample_index} of {sample.task_id} ({sample.model}) has no logprob, which the "
            "selector 'logprob' needs; choose another selector, e.g. evaluation.selector=first"
        )
    return scores


def by_length(samples: Sequence[SampleRecord]) -> np.ndarray:
    """The longest answer in tokens: the bias that people and reward models are known for."""
    return np.array([sample.num_tokens for sample in samples], dtype=np.float64)


def by_order(samples: Sequence[SampleRecord]) -> np.ndarray:
    """Always the first one shown."""
    return np.array([-sample.sample_index for sample in samples], dtype=np.float64)


def at_random(samples: Sequence[SampleRecord]) -> np.ndarray:
    """A fixed random order: a hash of the prompt and the sample index, the same for every model."""
    return np.array(
        [_uniform(f"{sample.task_id}#{sample.sample_index}") for sample in samples], dtype=np.float64
    )


def _uniform(key: str) -> float:
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


SELECTORS: dict[str, Selector] = {
    "reward": by_reward,
    "logprob": by_logprob,
    "length": by_length,
    "first": by_order,
    "random": at_random,
}


def get_selector(name: str) -> Selector:
    """The selector of that name; raises ConfigError naming those that exist."""
    if name not in SELECTORS:
        raise ConfigError(f"selector={name!r} is none of {', '.join(SELECTORS)}")
    return SELECTORS[name]
