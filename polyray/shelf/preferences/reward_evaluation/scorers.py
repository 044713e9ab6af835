"""Scorers for validation, behind one protocol: engagement models, rewards, heuristics, and simple baselines.

A new kind is a class here, its spec in polyray/config/reward_validation.py and a line in SCORERS. Baselines
that have to learn something (a direction, lengths) learn it from HeldOut.fit, never from the validated part.
Called by pipeline.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polyray.config.base import as_json
from polyray.config.reward_validation import (
    Direction,
    EngagementScorerSpec,
    LengthScorerSpec,
    LogprobScorerSpec,
    NgramSpec,
    RandomScorerSpec,
    RewardScorerSpec,
    ScorerSpec,
    TaskScorerSpec,
)
from polyray.errors import ConfigError
from polyray.metrics.pairwise import pair_hits
from polyray.shelf.preferences.reward_evaluation.held_out import HeldOut, Texts

BLANK = -30.0
"""Log-odds of a text that is never preferred."""
CURVE_BINS = 10
_MIN_DIRECTION_PAIRS = 50
"""A language model's direction is learnt on texts it was not trained on where there are so many pairs."""


class CompletionScorer(Protocol):
    """One number per completion, higher is better."""

    name: str
    version: str
    """Changes whenever the same texts could get other scores."""
    log_odds: bool
    """sigmoid(score(a) - score(b)) is meant as the probability that a beats b."""
    note: str
    """Fitted values, for the report; may be empty."""

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] float64; NaN where there is no score, which is never 0."""
        ...


class EngagementScorer:
    """An engagement model, on its log-odds scale."""

    log_odds = True

    def __init__(self, name: str, spec: EngagementScorerSpec, data: HeldOut, seed: int) -> None:
        from polyray.shelf.preferences.reward_model import EngagementModel

        self._model = EngagementModel.load(Path(spec.path))
        self.name, self.version = name, self._model.version
        self.note = f"engagement model {self.version[:12]}"

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] log-odds; BLANK for a blank completion, which the reward scores 0 without asking the model."""
        raw_N = np.array(self._model.raw(prompts, completions), dtype=np.float64)
        raw_N[[not text.strip() for text in completions]] = BLANK
        return raw_N


class RewardScorer:
    """Any reward, as a training run would build it."""

    log_odds = False

    def __init__(self, name: str, spec: RewardScorerSpec, data: HeldOut, seed: int) -> None:
        from polyray.config.reward import DiversitySpec
        from polyray.rewards import plan_reward

        self._reward = plan_reward(spec.reward, spec.task, DiversitySpec()).build()
        self.name, self.version = name, self._reward.version
        self.note = f"reward {self._reward.name}"

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] in [0, 1]; NaN where the reward could not score."""
        from polyray.rewards.base import ScoreItem

        items = [
            ScoreItem(prompt, completion, metadata={"source": prompt})
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        found = [score.score for score in self._reward.score(items)]
        return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


class TaskScorer:
    """The heuristic quality of a task, or its verdict where it has a verifier."""

    log_odds = False

    def __init__(self, name: str, spec: TaskScorerSpec, data: HeldOut, seed: int) -> None:
        from polyray.tasks import build_task

        self._task = build_task(spec.task)
        self.name, self.version = name, _version(spec)
        self.note = f"heuristic of {spec.task.type}"

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] in [0, 1]."""
        from polyray.types import Prompt

        return np.array(
            [
                self._task.reward(Prompt("", prompt, metadata={"source": prompt}), completion)
                for prompt, completion in zip(prompts, completions, strict=True)
            ],
            dtype=np.float64,
        )


class LengthScorer:
    """Length alone: longer (or shorter) is better, or a curve over deciles of length."""

    log_odds = False

    def __init__(self, name: str, spec: LengthScorerSpec, data: HeldOut, seed: int) -> None:
        self._unit = spec.unit
        self.name, self.version = name, _version(spec, data.sha256, seed)
        self._edges, self._levels, self._sign = np.empty(0), np.empty(0), 1.0
        if spec.shape == "curve":
            self._learn_curve(_fit_parts(data, name))
            self.note = f"how often {CURVE_BINS} bins of {spec.unit} win on the part it was learnt on"
        else:
            better, self._sign, why = _direction(spec.direction, self.lengths, data.fit, name)
            self.note = f"{'longer' if better else 'shorter'} is better{why}"

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] the signed length, or the level of its bin."""
        lengths = self.lengths(prompts, completions)
        if len(self._levels):
            return self._levels[np.searchsorted(self._edges, lengths, side="right")]
        return self._sign * lengths

    def lengths(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] characters or words."""
        return text_lengths(completions, self._unit)

    def _learn_curve(self, parts: Sequence[Texts]) -> None:
        """Level of a bin: how often its completions win against those of other bins."""
        lengths_by_part = [self.lengths(part.prompts, part.completions) for part in parts]
        quantiles = np.quantile(np.concatenate(lengths_by_part), np.linspace(0, 1, CURVE_BINS + 1)[1:-1])
        self._edges = np.unique(quantiles)
        wins, played = np.zeros(len(self._edges) + 1), np.zeros(len(self._edges) + 1)
        for part, lengths in zip(parts, lengths_by_part, strict=True):
            bins = np.searchsorted(self._edges, lengths, side="right")
            better, worse = bins[part.pairs.better_M], bins[part.pairs.worse_M]
            differ = better != worse
            np.add.at(wins, better[differ], 1)
            np.add.at(played, np.concatenate((better[differ], worse[differ])), 1)
        # One win and one defeat more, so that a bin without comparisons is neutral.
        self._levels = (wins + 1.0) / (played + 2.0)


class LogprobScorer:
    """Mean log-probability per token under a language model."""

    log_odds = False

    def __init__(self, name: str, spec: LogprobScorerSpec, data: HeldOut, seed: int) -> None:
        self.name = name
        self._logprobs = _ngram_logprobs(spec.model, data, name)
        self.version = _version(spec, data.sha256, seed)
        tuned = data.tuning is not None and len(data.tuning.pairs) >= _MIN_DIRECTION_PAIRS
        parts = [data.tuning] if tuned and data.tuning is not None else data.fit
        better, self._sign, why = _direction(spec.direction, self._logprobs, parts, name)
        self.note = f"{'likelier' if better else 'unlikelier'} is better{why}; {spec.model.type}"

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] nats per token, with the sign of the direction; NaN for a text without a token."""
        return self._sign * self._logprobs(prompts, completions)


class RandomScorer:
    """A number in [0, 1) from a hash of the texts."""

    log_odds = False
    note = "chance"

    def __init__(self, name: str, spec: RandomScorerSpec, data: HeldOut, seed: int) -> None:
        self.name, self.version, self._seed = name, _version(spec, seed), seed

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N]."""
        texts = [
            json.dumps([self._seed, prompt, completion]).encode()
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return np.array([int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48 for text in texts])


SCORERS: dict[str, Callable[[str, Any, HeldOut, int], CompletionScorer]] = {
    "engagement": EngagementScorer,
    "reward": RewardScorer,
    "task": TaskScorer,
    "length": LengthScorer,
    "logprob": LogprobScorer,
    "random": RandomScorer,
}


def build_scorer(name: str, spec: ScorerSpec, data: HeldOut, seed: int) -> CompletionScorer:
    """Loads or fits what `spec` asks for. Raises ConfigError where a model or a part to fit on is missing."""
    return SCORERS[spec.type](name, spec, data, seed)


def text_lengths(texts: Sequence[str], unit: str = "characters") -> np.ndarray:
    """[N] characters or words, float64."""
    return np.array([len(text) if unit == "characters" else len(text.split()) for text in texts], np.float64)


Feature = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def _direction(
    direction: Direction, feature: Feature, parts: Sequence[Texts], name: str
) -> tuple[bool, float, str]:
    """(higher is better, sign, how it was found)."""
    if direction != "learn":
        return direction == "higher", 1.0 if direction == "higher" else -1.0, ", as configured"
    hits = [
        pair_hits(values[part.pairs.better_M], values[part.pairs.worse_M])
        for part in parts
        if len(part.pairs)
        for values in [np.nan_to_num(feature(part.prompts, part.completions))]
    ]
    if not hits:
        raise ConfigError(
            f"{name}: there is no pair to learn its direction from; set its direction to higher or lower, or give "
            "data with a train or validation part"
        )
    share, count = float(np.concatenate(hits).mean()), sum(len(part) for part in hits)
    better = share >= 0.5
    right = share if better else 1 - share
    return better, 1.0 if better else -1.0, f" (right about {right:.1%} of {count:,} pairs it was learnt on)"


def _fit_parts(data: HeldOut, name: str) -> list[Texts]:
    if not data.fit:
        raise ConfigError(
            f"{name}: the data has no part to fit it on; leave it out, or give data with a train part"
        )
    return data.fit


def _ngram_logprobs(spec: NgramSpec, data: HeldOut, name: str) -> Feature:
    from polyray.shelf.preferences.reward_evaluation.ngrams import NgramModel

    model = NgramModel(_fit_parts(data, name)[0].completions, spec.order)

    def logprobs(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return np.array([model.mean_logprob(text) for text in completions], dtype=np.float64)

    return logprobs


def _version(spec: Any, *more: Any) -> str:
    return hashlib.sha256(json.dumps([as_json(spec), *more], sort_keys=True).encode()).hexdigest()
