"""Rules on one record: each at its limit, their order, word lists, languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.curate import FilterSpec, LanguageSpec
from polyray.data.flagged_words import read_flagged_words
from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.curation.filters import build_rules
from polyray.shelf.preferences.curation.language import UNDECIDED, language_rule
from tests.unit.shelf.preferences.curation.builders import record

ENGLISH = "I would rather read the sources myself than believe what somebody else says about them."
GERMAN = "Ich lese die Quellen lieber selbst, als dass ich glaube, was andere Leute darüber erzählen."
STRICT = {"min_words": 3, "max_links": 0, "max_mentions": 0, "flagged_words": "builtin", "min_engagement": 9}


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        ({"min_words": 3}, "It's no good.", None),
        ({"min_words": 3}, "No -- good.", ("too short", "2 words, below 3")),
        ({"max_words": 2}, "No good.", None),
        ({"max_words": 2}, "No good, no", ("too long", "3 words, above 2")),
        ({"max_links": 1}, "see https://a.org", None),
        ({"max_links": 1}, "https://a.org www.b.org", ("links", "2 links, above 1")),
        ({"max_mentions": 0}, "mail me at a@b.org", None),
        ({"max_mentions": 0}, "thanks @ana", ("mentions", "1 mentions, above 0")),
        ({"flagged_words": "builtin"}, "You MORON!", ("flagged words", "moron")),
        ({"flagged_words": "builtin"}, "An oxymoron.", None),
        ({"flagged_words": "builtin"}, "Oh, shut   UP.", ("flagged words", "shut up")),
        ({"min_engagement": 0.5}, "x", ("low engagement", "engagement 0, below 0.5")),
        ({"min_engagement": 0}, "x", None),
        ({"min_impressions": 0}, "x", ("few impressions", "impressions unknown, below 0")),
        (STRICT, "https://a.org @b moron", ("links", "1 links, above 0")),
        (STRICT, "you @b moron", ("mentions", "1 mentions, above 0")),
        (STRICT, "you are a moron", ("flagged words", "moron")),
        (STRICT, "you are kind", ("low engagement", "engagement 0, below 9")),
        (STRICT, "@b moron", ("too short", "2 words, below 3")),
        ({}, "@b moron", None),
    ],
)
def test_rules_give_the_first_reason(
    spec: dict[str, Any], text: str, expected: tuple[str, str] | None
) -> None:
    assert build_rules(FilterSpec(**spec)).objection(record("a", text)) == expected


def test_rules_about_impressions_apply_below_the_limit() -> None:
    rules = build_rules(FilterSpec(min_impressions=100))
    assert rules.objection(record("a", impressions=100)) is None
    assert rules.objection(record("a", impressions=99)) == ("few impressions", "99 impressions, below 100")


def test_word_list_of_a_file_matches_whole_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# mine\r\nBuy now!\r\n\r\n  Gewinnspiel \r\nbuy\r\n".encode())
    flagged = read_flagged_words(str(path))
    assert [flagged.found_in(text) for text in ("gewinnspiel, BUY NOW", "Gewinnspiele")] == ["buy", ""]
    path.write_text("Buy now!\n")
    flagged = read_flagged_words(str(path))
    assert [flagged.found_in(text) for text in ("Please buy: now", "buy nowhere")] == ["buy now", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ok\n***\n", r"words\.txt:2: '\*\*\*'"),
        ("# none\n", r"words\.txt: .*filters\.flagged_words"),
        (None, "absent"),
    ],
)
def test_word_list_that_is_unusable_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / ("absent.txt" if content is None else "words.txt")
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_flagged_words(str(path))


def test_language_rule_counts_and_drops_other_languages() -> None:
    rule = language_rule(LanguageSpec(keep=("en",)))
    texts = (ENGLISH, GERMAN, "Danke schön!", "1 2 3 4 5 6 7 8 9 10 11 12")  # too short, and no words
    assert [rule.reason(text) for text in texts] == ["", "de", "", ""]
    assert rule.counts == {"en": 1, "de": 1, UNDECIDED: 2}
    rules = build_rules(FilterSpec(language=LanguageSpec(keep=("de",))))
    assert [rules.objection(record("a", text)) for text in (ENGLISH, GERMAN)] == [("language", "en"), None]
    with pytest.raises(ConfigError, match=r"filters\.language\.keep: .*'english'; known: "):
        language_rule(LanguageSpec(keep=("english",)))
