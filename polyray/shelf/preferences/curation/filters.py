"""Rules that look at one record each and say why it goes. The first one that objects is the reason.

Order: length, links, mentions, flagged words, language, impressions, engagement. Only the completion is looked at:
a post is what it is. Called by pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyray.config.curate import FilterSpec
from polyray.data.flagged_words import read_flagged_words
from polyray.data.words import LINK, MENTION, words_of
from polyray.shelf.preferences.curation.language import LanguageRule, language_rule
from polyray.shelf.preferences.engagement import EngagementRecord

Rule = Callable[[EngagementRecord], str]
"""A record -> what is wrong with it; "" where nothing is."""


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule and the reason under which it is counted.

    Example:
        NamedRule("too short", lambda record: "0 words" if not record.completion else "")
    """

    reason: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of a FilterSpec.

    Example:
        build_rules(FilterSpec(max_links=0)).objection(record)  # ("links", "1 link") or None
    """

    rules: Sequence[NamedRule]
    language: LanguageRule | None
    """Counts what it has seen."""

    def objection(self, record: EngagementRecord) -> tuple[str, str] | None:
        """(reason, detail) of the first rule that objects."""
        for named in self.rules:
            detail = named.rule(record)
            if detail:
                return named.reason, detail
        return None


def build_rules(spec: FilterSpec) -> Rules:
    """Reads the word list and loads the language model where they are asked for. Raises DataError, ConfigError."""
    rules = [
        *_length_rules(spec.min_words, spec.max_words, "words", lambda text: len(words_of(text))),
    ]
    if spec.max_links is not None:
        rules.append(
            NamedRule("links", _at_most(spec.max_links, "links", lambda text: len(LINK.findall(text))))
        )
    if spec.max_mentions is not None:
        count = _at_most(spec.max_mentions, "mentions", lambda text: len(MENTION.findall(text)))
        rules.append(NamedRule("mentions", count))
    if spec.flagged_words is not None:
        flagged = read_flagged_words(spec.flagged_words)
        rules.append(NamedRule("flagged words", lambda record: flagged.found_in(record.completion)))
    language = language_rule(spec.language) if spec.language is not None else None
    if language is not None:
        rules.append(NamedRule("language", lambda record: language.reason(record.completion)))
    if spec.min_impressions is not None:
        rules.append(NamedRule("few impressions", _min_impressions(spec.min_impressions)))
    if spec.min_engagement is not None:
        rules.append(NamedRule("low engagement", _min_engagement(spec.min_engagement)))
    return Rules(tuple(rules), language)


def _length_rules(
    low: int | None, high: int | None, unit: str, length: Callable[[str], int]
) -> list[NamedRule]:
    rules: list[NamedRule] = []
    if low is not None:
        rules.append(NamedRule("too short", _at_least(low, unit, length)))
    if high is not None:
        rules.append(NamedRule("too long", _at_most(high, unit, length)))
    return rules


def _at_least(limit: int, unit: str, count: Callable[[str], int]) -> Rule:
    def rule(record: EngagementRecord) -> str:
        number = count(record.completion)
        return f"{number} {unit}, below {limit}" if number < limit else ""

    return rule


def _at_most(limit: int, unit: str, count: Callable[[str], int]) -> Rule:
    def rule(record: EngagementRecord) -> str:
        number = count(record.completion)
        return f"{number} {unit}, above {limit}" if number > limit else ""

    return rule


def _min_impressions(limit: int) -> Rule:
    def rule(record: EngagementRecord) -> str:
        if record.impressions is None:
            return f"impressions unknown, below {limit}"
        return f"{record.impressions} impressions, below {limit}" if record.impressions < limit else ""

    return rule


def _min_engagement(limit: float) -> Rule:
    def rule(record: EngagementRecord) -> str:
        return f"engagement {record.engagement:.6g}, below {limit:g}" if record.engagement < limit else ""

    return rule
