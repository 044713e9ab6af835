"""A heuristic quality in [0, 1] for texts that nothing can verify: cheap, deterministic, no model.

It says whether a text is a plausible, clean answer to its prompt, not whether it is a good one:

    quality = length * clean * original * varied
              * (relevance_weight * relevance + vocabulary_weight * vocabulary + ending_weight * ending)

    relevance   content words shared with the source, up to as many as `enough_shared_words`
    vocabulary  different words among the first 50
    ending      a text ends like a sentence
    length      1 within a band of word counts, falling linearly to 0 at its outer ends
    clean       halved for every link, second mention or hashtag, shouted passage, run of one sign
    original    falls to 0 as the share of 4-word runs taken over from the source rises from 0.2 to 0.8
    varied      falls to 0 as the share of repeated 3-word runs rises from 0.2 to 0.7

A reward that is optimised gets exploited: use it to see that a pipeline works and to sort out garbage; for
claims about quality use a judge or a reward model. Called by the tasks without a verifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from polyray.data.words import LINK, MENTION, WORD, words_of

_HASHTAG = re.compile(r"(?<!\w)#\w+")
_RUN_OF_SIGNS = re.compile(r"([^\w\s.\-=_*])\1{3,}|([^\W\d_])\2{4,}")
_SHOUTED = re.compile(r"(?:\b[A-Z]{3,}\b\W+){3,}\b[A-Z]{3,}\b")
_SENTENCE_END = re.compile(r"[.!?…][\"'\u201d\u2019)\]*]*$|[\"\u201d\u2019]$")
_FREE_HASHTAGS = _FREE_MENTIONS = 1
_VOCABULARY_WORDS = 50

_FUNCTION_WORDS = frozenset(
    WORD.findall(
        "a about after again all also am an and any are as at be because been before being but by can could did "
        "do does doing don't down each even every few for from get got had has have having he her here hers him "
        "his how i if in into is isn't it it's its just let like made make many may me might more most much must "
        "my no nor not now of off on once one only or other our out over own same she should so some such than "
        "that that's the their them then there these they thing things this those through to too under until up "
        "us very was we were what when where which while who whom why will with would you you're your yours"
    )
)


@dataclass(frozen=True, slots=True)
class QualityProfile:
    """Expectations of a domain about its texts.

    Example:
        QualityProfile(length_band=(2, 8, 60, 250), enough_shared_words=3)
    """

    length_band: tuple[int, int, int, int]
    """Words: 0 at or below the first, 1 from the second to the third, 0 at or above the fourth."""
    enough_shared_words: int
    """Content words in common with the source for full relevance."""
    relevance_weight: float = 0.6
    vocabulary_weight: float = 0.25
    ending_weight: float = 0.15


@dataclass(frozen=True, slots=True)
class QualityParts:
    """The parts of a quality, each in [0, 1].

    Example:
        QualityParts(relevance=0.67, length=1.0, vocabulary=0.9, ending=1.0, clean=1.0, original=1.0, varied=1.0)
    """

    relevance: float
    length: float
    vocabulary: float
    ending: float
    clean: float
    original: float
    varied: float


def text_quality(profile: QualityProfile, source: str, text: str) -> float:
    """Quality of `text` as an answer to `source`, in [0, 1]; 0 for texts without a word."""
    parts = quality_parts(profile, source, text)
    wanted = (
        profile.relevance_weight * parts.relevance
        + profile.vocabulary_weight * parts.vocabulary
        + profile.ending_weight * parts.ending
    )
    return min(1.0, parts.length * parts.clean * parts.original * parts.varied * wanted)


def quality_parts(profile: QualityProfile, source: str, text: str) -> QualityParts:
    """Parts of `text_quality`."""
    words, source_words = words_of(text), words_of(source)
    if not words:
        return QualityParts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return QualityParts(
        relevance=relevance(words, source_words, profile.enough_shared_words),
        length=_in_band(len(words), profile.length_band),
        vocabulary=_vocabulary(words),
        ending=float(_SENTENCE_END.search(text.strip()) is not None),
        clean=0.5 ** num_blemishes(text),
        original=1.0 - _ramp(_share_taken_over(words, source_words), 0.2, 0.8),
        varied=1.0 - _ramp(_share_repeated(words), 0.2, 0.7),
    )


def content_words(words: Sequence[str]) -> frozenset[str]:
    """The words that carry a topic, plural and singular made one; function words left out."""
    return frozenset(_stem(word) for word in words if word not in _FUNCTION_WORDS and len(word) > 1)


def relevance(words: Sequence[str], source_words: Sequence[str], enough: int) -> float:
    """Shared content words over `enough`, at most 1; a source with fewer content words needs fewer.

    0.5 where the source has none: nothing can be said.
    """
    topic = content_words(source_words)
    if not topic:
        return 0.5
    return min(1.0, len(content_words(words) & topic) / min(enough, len(topic)))


def num_blemishes(text: str) -> int:
    """Links, mentions and hashtags beyond the first, shouted passages, runs of one sign or letter."""
    return (
        max(0, len(MENTION.findall(text)) - _FREE_MENTIONS)
        + max(0, len(_HASHTAG.findall(text)) - _FREE_HASHTAGS)
        + sum(len(pattern.findall(text)) for pattern in (LINK, _SHOUTED, _RUN_OF_SIGNS))
    )


def _stem(word: str) -> str:
    if word.endswith("'s"):
        word = word[:-2]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("oes", "ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _in_band(num_words: int, band: tuple[int, int, int, int]) -> float:
    low, full_from, full_to, high = band
    return min(_ramp(num_words, low, full_from), 1.0 - _ramp(num_words, full_to, high))


def _ramp(value: float, start: float, end: float) -> float:
    """0 up to `start`, 1 from `end` on, linear between."""
    return min(1.0, max(0.0, (value - start) / (end - start)))


def _vocabulary(words: Sequence[str]) -> float:
    first = words[:_VOCABULARY_WORDS]
    return len(set(first)) / len(first)


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def _share_taken_over(words: Sequence[str], source_words: Sequence[str]) -> float:
    """Share of the text's runs of 4 words (of all its words if it has fewer) that are in the source, too."""
    length = min(4, len(words))
    runs, taken = _runs(words, length), set(_runs(source_words, length))
    return sum(run in taken for run in runs) / len(runs) if len(words) >= 4 else float(runs[0] in taken)


def _share_repeated(words: Sequence[str]) -> float:
    """Share of the runs of 3 words that occurred before; of the words themselves in texts of under 6."""
    runs = _runs(words, 3 if len(words) >= 6 else 1)
    return 1.0 - len(set(runs)) / len(runs)
