"""Language of a text, if it can be told. py3langid is imported late. Called by filters.py."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from polyray.config.curate import LanguageSpec
from polyray.errors import ConfigError

UNDECIDED = "undecided"
MIN_CHARS = 40
"""Shorter texts stay undecided."""
MIN_PROBABILITY = 0.9
"""Less certain texts stay undecided."""
READ_CHARS = 1000
"""The beginning of a text tells its language."""


@dataclass(slots=True)
class LanguageRule:
    """Keeps the languages of a configuration; build it with `language_rule`.

    Example:
        language_rule(LanguageSpec(keep=("en",))).language_of("Das ist ein Satz, der lang genug ist, um ...")  # "de"
    """

    spec: LanguageSpec
    identifier: Any
    counts: dict[str, int] = field(default_factory=dict)
    """Language, or UNDECIDED -> how many texts `reason` has seen of it."""

    def language_of(self, text: str) -> str:
        """ISO 639-1, or UNDECIDED for a text that is too short or too uncertain.

        Probabilities are py3langid's, normalised over its languages.
        """
        if len(text.strip()) < MIN_CHARS:
            return UNDECIDED
        language, probability = self.identifier.classify(text[:READ_CHARS])
        return str(language) if probability >= MIN_PROBABILITY else UNDECIDED

    def reason(self, text: str) -> str:
        """The language that is not kept; "" for one that is and for undecided ones. Counts."""
        language = self.language_of(text)
        self.counts[language] = self.counts.get(language, 0) + 1
        return "" if language == UNDECIDED or language in self.spec.keep else language


def language_rule(spec: LanguageSpec) -> LanguageRule:
    """Loads the identifier. Raises ConfigError for a language it does not know."""
    identifier = _identifier()
    unknown = sorted(set(spec.keep) - set(identifier.labels))
    if unknown:
        raise ConfigError(
            f"filters.language.keep: unknown language {unknown[0]!r}; known: {', '.join(sorted(identifier.labels))}"
        )
    return LanguageRule(spec, identifier)


@functools.cache
def _identifier() -> Any:
    """One per process: unpacking the model takes seconds."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
