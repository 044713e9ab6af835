"""A heuristic reward of texts, for where nothing was learnt: five parts in [0, 1], weighted and reported.

    relevance   content words shared with the prompt, or the cosine of sentence embeddings (negative ones: 0)
    length      1 within a band of word counts, falling linearly to 0 at its outer ends
    sentiment   0.5 neutral, 1 positive (sentiment.py)
    uniqueness  what is not taken over from texts known for this prompt, nor repeated within the text itself
    safety      0 for a text with a listed word or phrase, else 1

score = sum of weight x part / sum of weights; 0 for a text without a word. A reward that is optimised gets
exploited, this one soon: it is a fallback and a baseline, and as a part behind a gate (composite.py) it sorts out
garbage. Uniqueness looks at the prompt, its reference and metadata["known_texts"], not at the other completions
of the group: an item's score must not depend on its neighbours (it may be kept, and set objectives are only
unbiased so). How much the completions of a group differ is the objective's business: `diversity`.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyray.config.reward import DiversitySpec
from polyray.config.text_reward import HeuristicRewardSpec
from polyray.data.flagged_words import FlaggedWords
from polyray.rewards.base import Judge, Score, ScoreItem
from polyray.rewards.distances import TASK_DISTANCE
from polyray.rewards.sentiment import sentiment
from polyray.rewards.task_reward import TaskReward
from polyray.tasks.text_quality import QualityProfile, quality_parts, relevance, words_of

PARTS = ("relevance", "length", "sentiment", "uniqueness", "safety")


class HeuristicReward(TaskReward):
    """Scores each item alone; classes and distances are the task's."""

    def __init__(
        self,
        spec: HeuristicRewardSpec,
        unsafe_words: FlaggedWords,
        task: Judge,
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
    ) -> None:
        """Versions follow the task, `spec` and the words (see polyray.rewards)."""
        super().__init__(task, "heuristic", version, diversity, device)
        self._spec = spec
        self._unsafe = unsafe_words
        self._profile = QualityProfile(spec.length_band, spec.enough_shared_words)
        self._weights = {name: getattr(spec.weights, name) for name in PARTS}

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item, its parts as components."""
        cosines = self._cosines(items)
        scores = []
        for item, cosine in zip(items, cosines, strict=True):
            try:
                parts = self._parts(item, cosine)
            except Exception as error:  # metadata is foreign: one item must not take the others down
                scores.append(self._cannot_judge(error))
                continue
            total = sum(self._weights[name] * parts[name] for name in PARTS)
            value = min(1.0, total / sum(self._weights.values()))  # rounding may exceed 1 by an ulp
            scores.append(self._judged(item, value, parts))
        return scores

    def _parts(self, item: ScoreItem, cosine: float | None) -> dict[str, float]:
        words, source = words_of(item.completion), _source(item)
        if not words:
            return dict.fromkeys(PARTS, 0.0)
        shared = relevance(words, words_of(source), self._spec.enough_shared_words)
        of_known = [quality_parts(self._profile, text, item.completion) for text in _known_texts(item)]
        return {
            "relevance": shared if cosine is None else cosine,
            "length": of_known[0].length,
            "sentiment": sentiment(words),
            "uniqueness": min(parts.original for parts in of_known) * of_known[0].varied,
            "safety": 0.0 if self._unsafe.found_in(item.completion) else 1.0,
        }

    def _cosines(self, items: Sequence[ScoreItem]) -> list[float | None]:
        if self._spec.relevance == "words" or not items:
            return [None] * len(items)
        from polyray.models.text_encoder import embed_texts

        units = embed_texts(
            self._spec.encoder,
            [*(_source(item) for item in items), *(item.completion for item in items)],
            self._device,
        )
        cosines = (units[: len(items)] * units[len(items) :]).sum(axis=1)
        return [min(1.0, max(0.0, float(cosine))) for cosine in cosines]


def _source(item: ScoreItem) -> str:
    """Text to be answered, without the instruction around it if the task gives it."""
    source = item.metadata.get("source")
    return source if isinstance(source, str) else item.prompt


def _known_texts(item: ScoreItem) -> list[str]:
    known = item.metadata.get("known_texts", ())
    if isinstance(known, str) or not all(isinstance(text, str) for text in known):
        raise ValueError('metadata["known_texts"] is not a list of texts; correct it or leave it out')
    return [_source(item), *([item.reference] if item.reference else []), *known]
