"""The heuristic quality: each part by hand, garbage below real texts, always within [0, 1]."""

from __future__ import annotations

import random

import pytest

from polyray.tasks.text_quality import (
    QualityProfile,
    num_blemishes,
    quality_parts,
    text_quality,
    words_of,
)

PROFILE = QualityProfile(length_band=(2, 6, 20, 40), enough_shared_words=3)
SOURCE = "My tomato plants are two metres tall and have not made a single tomato. What am I doing wrong?"
GOOD = "Too much nitrogen: stop feeding the plants, pinch the tall tips and tomatoes will follow."


def test_quality_of_a_good_reply_equals_its_parts_by_hand() -> None:
    parts = quality_parts(PROFILE, SOURCE, GOOD)
    assert len(words_of(GOOD)) == 15
    # plant, tall and tomato are shared, singular and plural alike; "the" occurs twice among the 15 words.
    assert parts.relevance == 1.0
    assert parts.vocabulary == pytest.approx(14 / 15)
    assert (parts.length, parts.ending, parts.clean, parts.original, parts.varied) == (1, 1, 1, 1, 1)
    expected = 0.6 + 0.25 * 14 / 15 + 0.15
    assert text_quality(PROFILE, SOURCE, GOOD) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("source", "text", "relevance"),
    [
        (SOURCE, "What am I doing and have not made?", 0.0),  # "what", "am", ... carry no topic
        (SOURCE, "A plant.", 1 / 3),
        (SOURCE, "Tall plants.", 2 / 3),
        ("It's not what you'd think of the cities' parties", "A city party thinks.", 1.0),
        ("Bees?", "Bees!", 1.0),  # a source with one word needs one
        ("What is it?", "No.", 0.5),  # nothing can be said
    ],
)
def test_relevance_counts_shared_content_words(source: str, text: str, relevance: float) -> None:
    assert quality_parts(PROFILE, source, text).relevance == pytest.approx(relevance)


@pytest.mark.parametrize(
    ("num_words", "expected"), [(2, 0.0), (4, 0.5), (6, 1.0), (20, 1.0), (30, 0.5), (90, 0.0)]
)
def test_length_part_follows_the_band(num_words: int, expected: float) -> None:
    text = " ".join(f"word{number}" for number in range(num_words))
    assert quality_parts(PROFILE, SOURCE, text).length == pytest.approx(expected)


def test_quality_of_a_copied_prompt_is_zero() -> None:
    assert text_quality(PROFILE, SOURCE, SOURCE) == 0.0
    half = "My tomato plants are two metres tall. Try shaking the open flowers around noon every day instead."
    # 4 of the 14 four-word runs are taken over: (4/14 - 0.2) / 0.6.
    assert len(words_of(half)) == 17
    assert quality_parts(PROFILE, SOURCE, half).original == pytest.approx(1 - (4 / 14 - 0.2) / 0.6)


def test_quality_of_repetition_is_zero() -> None:
    looped = "stop feeding the plants " * 5
    # 18 runs of 3 words, 4 of them different: 14/18 repeated, above 0.7.
    assert quality_parts(PROFILE, SOURCE, looped).varied == 0.0
    assert text_quality(PROFILE, SOURCE, looped) == 0.0
    assert quality_parts(PROFILE, SOURCE, "plants plants plants plants").varied == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain words, a dash - and an ellipsis ...", 0),
        ("See https://x.example/a for more", 1),
        ("Thanks @ann and @bob and @cy", 2),
        ("#one #two", 1),
        ("Wow!!!!", 1),
        ("sooooooo good", 1),
        ("BUY THIS THING NOW please", 1),
        ("The NATO and UNESCO offices", 0),
    ],
)
def test_blemishes_halve_the_clean_part(text: str, expected: int) -> None:
    assert num_blemishes(text) == expected
    assert quality_parts(PROFILE, SOURCE, text).clean == 0.5**expected


def test_quality_is_within_bounds_and_zero_without_words() -> None:
    rng = random.Random(5)
    pool = [*SOURCE.split(), "@a", "#b", "!!!!", "http://c.io/d", "\n", "ÄÖ", "日本", "x" * 50, ".", ""]
    for _ in range(500):
        text = " ".join(rng.choices(pool, k=rng.randint(0, 60)))
        quality = text_quality(PROFILE, SOURCE, text)
        assert 0.0 <= quality <= 1.0
        assert quality == text_quality(PROFILE, SOURCE, text)
    for text in ("", "   ", "...", "🎉🎉"):
        assert text_quality(PROFILE, SOURCE, text) == 0.0
    for text in ('He said "no."', "Really?", "Yes!)", "\u201cYes.\u201d", "No\u2026"):
        assert quality_parts(PROFILE, SOURCE, text).ending == 1.0
        assert quality_parts(PROFILE, SOURCE, text + " and then the").ending == 0.0
