"""Registry of selectors, which pick one of the k candidates; higher scores are preferred.

Most selectors score each sample on its own; USQ@k (polyray.metrics.selection) is then exact: the expected quality
of the candidate with the highest score, uniform among ties. `diverse` looks at the whole set, so its USQ@k is
estimated on sampled k-subsets. `reward` makes USQ@k the best of k by construction, so it is an upper bound, not a
user; for a model that was trained on that very reward its picks are refused (`refusals`). A new selector takes one
function and one line.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import SampleRecord
from polyray.metrics.selection import usq_at_k_sampled, usq_curve

Scores = Callable[[Sequence[SampleRecord]], np.ndarray]
"""Samples of one prompt [G] -> scores [G] float64."""
Pick = Callable[[Sequence[SampleRecord]], int]
"""The samples of one set -> the index of the one that is picked."""

NOISE_SCALE = 0.5
"""Noise of noisy_user, in units of quality.

Between candidates of quality 1 and 0 it picks the better one with probability 1 / (1 + exp(-1 / 0.5)) = 0.88.
"""
SAMPLED_SUBSETS = 64
"""k-subsets per prompt for selectors that look at the whole set."""
SELF_SELECTION = "reward"
"""The selector that picks by the evaluation's own reward."""


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
    return np.array([_uniform(_key(sample)) for sample in samples], dtype=np.float64)


def by_noisy_user(samples: Sequence[SampleRecord]) -> np.ndarray:
    """A simulated person: quality plus Gumbel noise of scale NOISE_SCALE, so pairs follow Bradley-Terry.

    The noise is a hash of the prompt and the sample index, the same for every model.
    """
    noise_G = np.array([-math.log(-math.log(_uniform(f"user/{_key(sample)}"))) for sample in samples])
    return by_reward(samples) + NOISE_SCALE * noise_G


def most_different(samples: Sequence[SampleRecord]) -> int:
    """Index of the candidate that shares the fewest words with the others (mean Jaccard distance)."""
    words = [
        frozenset(sample.completion.lower().split()) or frozenset((sample.completion,)) for sample in samples
    ]
    shared = [
        math.fsum(len(mine & other) / len(mine | other) for at, other in enumerate(words) if at != index)
        for index, mine in enumerate(words)
    ]
    return best_of(samples, -np.array(shared))


def best_of(samples: Sequence[SampleRecord], scores_G: np.ndarray) -> int:
    """Index of the highest score, uniform among ties: a hash of the prompt and the set breaks them."""
    best = np.flatnonzero(scores_G == scores_G.max()).tolist()
    if len(best) == 1:
        return best[0]
    shown = ",".join(str(sample.sample_index) for sample in samples)
    return max(best, key=lambda at: _uniform(f"tie/{shown}/{_key(samples[at])}"))


@dataclass(frozen=True, slots=True)
class Selector:
    """One way to pick; it has either `scores` or `pick`.

    Example:
        Selector("logprob", scores=by_logprob)
    """

    name: str
    scores: Scores | None = None
    pick: Pick | None = None

    @property
    def sha256(self) -> str:
        """sha256 of the source, which tells definitions apart beside a number."""
        return hashlib.sha256(inspect.getsource(self.scores or self.pick).encode()).hexdigest()  # type: ignore[arg-type]

    def usq(
        self, samples: Sequence[SampleRecord], qualities_G: np.ndarray, ks: Sequence[int]
    ) -> dict[int, float]:
        """USQ@k of one prompt for every k: exact where samples are scored one by one, else over sampled sets."""
        if self.scores is not None:
            return dict(zip(ks, usq_curve(self.scores(samples), qualities_G, ks), strict=True))
        pick = self.pick
        assert pick is not None

        def chosen(members: Sequence[int]) -> int:
            return members[pick([samples[member] for member in members])]

        seed = int(_uniform(f"sets/{samples[0].task_id}") * 2**32)
        return {k: usq_at_k_sampled(chosen, qualities_G, k, SAMPLED_SUBSETS, seed) for k in ks}


SELECTORS: dict[str, Selector] = {
    selector.name: selector
    for selector in (
        Selector(SELF_SELECTION, by_reward),
        Selector("logprob", by_logprob),
        Selector("length", by_length),
        Selector("first", by_order),
        Selector("random", at_random),
        Selector("noisy_user", by_noisy_user),
        Selector("diverse", pick=most_different),
    )
}


def get_selector(name: str) -> Selector:
    """The selector of that name; raises ConfigError naming those that exist."""
    if name not in SELECTORS:
        raise ConfigError(f"selector={name!r} is none of {', '.join(SELECTORS)}")
    return SELECTORS[name]


def refusals(
    names: Sequence[str], reward: str | None, trained_on: Mapping[str, str | None]
) -> dict[str, dict[str, str]]:
    """model -> selector -> why its picks say nothing: the selector is the reward that the model was trained on.

    Args:
        names: the selectors asked for.
        reward: identity of the evaluation's reward (arms.reward_name); None where it is unknown.
        trained_on: model -> identity of its training reward; None where there was none.
    """
    if SELF_SELECTION not in names or reward is None:
        return {}
    reason = (
        f"it was trained on this reward ({reward}): its picks would be graded by what it optimised; "
        "set evaluation.allow_self_selection (--allow-self-selection) to report them all the same"
    )
    return {model: {SELF_SELECTION: reason} for model, trained in trained_on.items() if trained == reward}


def _key(sample: SampleRecord) -> str:
    return f"{sample.task_id}#{sample.sample_index}"


def _uniform(key: str) -> float:
    """In (0, 1)."""
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**48
