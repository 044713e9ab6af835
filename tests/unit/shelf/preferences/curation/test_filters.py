"""Rules on one record: each at its limit, their order, word lists, languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.config.curate import FilterSpec, LanguageSpec
from polyray.config.loader import build_config
from polyray.data.flagged_words import read_flagged_words
from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.curation.filters import build_rules
from polyray.shelf.preferences.curation.language import UNDECIDED, language_rule
from tests.unit.shelf.preferences.curation.builders import record

ENGLISH = "I would rather read the sources myself than believe what somebody else says about them."
GERMAN = "Ich lese die Quellen lieber selbst, als dass ich glaube, was andere Leute darüber erzählen."


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
    ],
)
def test_each_rule_at_its_limit(spec: dict[str, Any], text: str, expected: tuple[str, str] | None) -> None:
    assert build_rules(FilterSpec(**spec)).objection(record("a", text)) == expected


def test_impressions_at_the_limit() -> None:
    rules = build_rules(FilterSpec(min_impressions=100))
    assert rules.objection(record("a", impressions=100)) is None
    assert rules.objection(record("a", impressions=99)) == ("few impressions", "99 impressions, below 100")


def test_the_first_rule_gives_the_reason() -> None:
    spec = FilterSpec(min_words=3, max_links=0, max_mentions=0, flagged_words="builtin", min_engagement=9)
    rules = build_rules(spec)
    texts = {
        "https://a.org @b moron": "links",
        "you @b moron": "mentions",
        "you are a moron": "flagged words",
        "you are kind": "low engagement",
        "@b moron": "too short",
    }
    assert {text: (rules.objection(record("a", text)) or ("",))[0] for text in texts} == texts
    assert build_rules(FilterSpec()).objection(record("a", "@b moron")) is None


def test_contradicting_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_words=5 .*max_words=4"):
        build_config(FilterSpec, {"min_words": 5, "max_words": 4})


def test_a_word_list_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# mine\r\nBuy now!\r\n\r\n  Gewinnspiel \r\nbuy\r\n".encode())
    flagged = read_flagged_words(str(path))
    assert flagged.found_in("gewinnspiel, BUY NOW") == "buy"
    assert flagged.found_in("Gewinnspiele") == ""
    path.write_text("Buy now!\n")
    assert read_flagged_words(str(path)).found_in("Please buy: now or never") == "buy now"
    assert read_flagged_words(str(path)).found_in("buy nowhere") == ""
    path.write_text("ok\n***\n")
    with pytest.raises(DataError, match=r"words\.txt:2: '\*\*\*'"):
        read_flagged_words(str(path))
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match=r"words\.txt: .*filters\.flagged_words"):
        read_flagged_words(str(path))
    with pytest.raises(DataError, match=r"absent\.txt: .*filters\.flagged_words"):
        read_flagged_words(str(tmp_path / "absent.txt"))


def test_languages() -> None:
    rule = language_rule(LanguageSpec(keep=("en",)))
    assert rule.reason(ENGLISH) == ""
    assert rule.reason(GERMAN) == "de"
    assert rule.reason("Danke schön!") == ""  # too short to tell
    assert rule.reason("1 2 3 4 5 6 7 8 9 10 11 12") == ""
    assert rule.counts == {"en": 1, "de": 1, UNDECIDED: 2}
    rules = build_rules(FilterSpec(language=LanguageSpec(keep=("de",))))
    assert rules.objection(record("a", ENGLISH)) == ("language", "en")
    assert rules.objection(record("a", GERMAN)) is None
    with pytest.raises(ConfigError, match=r"filters\.language\.keep: .*'english'; known: "):
        language_rule(LanguageSpec(keep=("english",)))
