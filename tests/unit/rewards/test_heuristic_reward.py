"""HeuristicReward: each part by hand, their weighted mean, and the games that it must not reward."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.text_reward import HeuristicRewardSpec
from polyray.data.flagged_words import FlaggedWords
from polyray.errors import ConfigError
from polyray.models.text_encoder import cosine_similarity
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.heuristic import PARTS, HeuristicReward
from polyray.rewards.sentiment import sentiment
from tests.unit.rewards.fake_task import FakeTask

UNSAFE = FlaggedWords(frozenset({"moron"}), ("shut up",))
PROMPT = "Should answers on this site cite their sources?"
GOOD = "Yes: answers that cite sources help every reader to check what they say."


def reward(**settings: Any) -> HeuristicReward:
    return HeuristicReward(build_config(HeuristicRewardSpec, settings), UNSAFE, FakeTask())


def score(text: str, item: dict[str, Any] | None = None, **settings: Any) -> Score:
    (result,) = reward(**settings).score([ScoreItem(PROMPT, text, **(item or {}))])
    return result


def test_heuristic_is_the_weighted_mean_of_its_parts() -> None:
    weights = {"relevance": 1, "length": 2, "sentiment": 3, "uniqueness": 4, "safety": 6}
    result = score(GOOD, weights=weights, length_band=[0, 26, 60, 250])
    # Shared: answer, cite, source, of the 3 that are enough. 13 of 26 words. No word of sentiment.
    parts = {"relevance": 1.0, "length": 0.5, "sentiment": 0.5, "uniqueness": 1.0, "safety": 1.0}
    assert result.components == parts
    assert result.score == pytest.approx(sum(weights[name] * value for name, value in parts.items()) / 16)
    assert result.class_id == 77
    for name in PARTS:
        alone = score(GOOD, weights=dict.fromkeys(PARTS, 0.0) | {name: 2.0})
        assert alone.score == alone.components[name]


@pytest.mark.parametrize("text", ["", "  \n", "🙂🙂🙂", "?!"])
def test_heuristic_answer_without_words_scores_zero(text: str) -> None:
    result = score(text)
    assert result.score == 0.0 and result.error is None and not any(result.components.values())


@pytest.mark.parametrize(
    ("part", "text", "item", "value"),
    [
        ("uniqueness", PROMPT, {}, 0.0),
        ("uniqueness", GOOD, {"reference": GOOD}, 0.0),
        ("uniqueness", GOOD, {"metadata": {"known_texts": ["Something else.", GOOD]}}, 0.0),
        ("uniqueness", GOOD, {"metadata": {"source": "Another prompt"}}, 1.0),
        ("uniqueness", "cite your sources please " * 8, {}, 0.0),
        ("safety", "You MORON, cite it.", {}, 0.0),
        ("safety", "Oh, shut up.", {}, 0.0),
        ("safety", "Oxymorons shut the upper door.", {}, 1.0),
    ],
)
def test_heuristic_part_refuses_copies_and_listed_words(
    part: str, text: str, item: dict[str, Any], value: float
) -> None:
    assert score(text, item).components[part] == value


def test_heuristic_score_depends_on_its_item_alone() -> None:
    whole = reward()
    items = [ScoreItem(PROMPT, text) for text in (GOOD, GOOD, "No.", GOOD)]
    assert whole.score(items) == [whole.score([item])[0] for item in items]
    assert whole.deterministic and whole.score_range == (0.0, 1.0)
    bad, good = whole.score([ScoreItem(PROMPT, GOOD, metadata={"known_texts": [1]}), items[0]])
    assert bad.score is None and "known_texts" in str(bad.error) and good.score is not None


def test_heuristic_relevance_by_embedding_is_the_cosine() -> None:
    result = score(GOOD, relevance="embedding")
    cosine = cosine_similarity("packaged", PROMPT, GOOD)
    assert 0.4 < cosine == pytest.approx(result.components["relevance"], abs=1e-5)
    off_topic = score("The lake froze early this winter.", relevance="embedding")
    assert off_topic.components["relevance"] < 0.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("the report has nine pages", 0.5),
        ("great", 0.75),
        ("great fun and lovely people", 0.5 + 0.5 * 3 / 4),
        ("terrible", 0.25),
        ("not good", 0.25),
        ("this isn't at all bad", 0.75),
        ("good but sad", 0.5),
        ("not that it matters to me but good", 0.75),  # the negation is too far away
    ],
)
def test_sentiment_by_hand(text: str, value: float) -> None:
    assert sentiment(text.split()) == pytest.approx(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": dict.fromkeys(PARTS, 0)}, r"weights.* 0"),
        ({"length_band": [8, 2, 60, 250]}, r"length_band=\[8, 2, 60, 250\]"),
    ],
)
def test_heuristic_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(HeuristicRewardSpec, settings)
