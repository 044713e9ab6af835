"""HeuristicReward: each part by hand, their weighted mean, and what games it must not reward."""

from __future__ import annotations

from collections.abc import Sequence
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
from polyray.types import Prompt

UNSAFE = FlaggedWords(frozenset({"moron"}), ("shut up",))
PROMPT = "Should answers on this site cite their sources?"
GOOD = "Yes: answers that cite sources help every reader to check what they say."


class OneClass:
    """Every completion but the empty one is class 7."""

    def reward(self, prompt: Prompt, completion: str) -> float:
        raise AssertionError("the heuristic does not ask the task for rewards")

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return 7 if completion else -1

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        return [7] * len(completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return 0.0


def score(text: str, item: dict[str, Any] | None = None, **settings: Any) -> Score:
    spec = build_config(HeuristicRewardSpec, settings)
    reward = HeuristicReward(spec, UNSAFE, OneClass())
    values: dict[str, Any] = {"prompt": PROMPT, "completion": text} | (item or {})
    (result,) = reward.score([ScoreItem(**values)])
    return result


def test_parts_and_their_weighted_mean() -> None:
    weights = {"relevance": 1, "length": 2, "sentiment": 3, "uniqueness": 4, "safety": 6}
    result = score(GOOD, weights=weights, length_band=[0, 26, 60, 250])
    # Shared: answer, cite, source, of the 3 that are enough. 13 of 26 words. No word of sentiment but `help`, which
    # is none.
    assert result.components == {
        "relevance": 1.0,
        "length": 0.5,
        "sentiment": 0.5,
        "uniqueness": 1.0,
        "safety": 1.0,
    }
    assert result.score == pytest.approx((1 * 1 + 2 * 0.5 + 3 * 0.5 + 4 + 6) / 16)
    assert result.class_id == 7


@pytest.mark.parametrize("name", PARTS)
def test_one_part_alone_is_the_score(name: str) -> None:
    result = score(GOOD, weights=dict.fromkeys(PARTS, 0.0) | {name: 2.0})
    assert result.score == result.components[name]


def test_empty_answer_scores_zero() -> None:
    for text in ("", "  \n", "🙂🙂🙂", "?!"):
        result = score(text)
        assert result.score == 0.0 and result.error is None and not any(result.components.values())


def test_copy_of_a_known_text_is_not_unique() -> None:
    assert score(PROMPT).components["uniqueness"] == 0.0
    assert score(GOOD, {"reference": GOOD}).components["uniqueness"] == 0.0
    assert score(GOOD, {"metadata": {"known_texts": ["Something else.", GOOD]}}).components["uniqueness"] == 0
    assert score(GOOD, {"metadata": {"source": "Another prompt"}}).components["uniqueness"] == 1.0
    repeated = "cite your sources please " * 8
    assert score(repeated).components["uniqueness"] == 0.0


def test_the_score_of_an_item_does_not_depend_on_its_neighbours() -> None:
    reward = HeuristicReward(HeuristicRewardSpec(), UNSAFE, OneClass())
    items = [ScoreItem(PROMPT, text) for text in (GOOD, GOOD, "No.", GOOD)]
    assert reward.score(items) == [reward.score([item])[0] for item in items]
    assert reward.deterministic and reward.score_range == (0.0, 1.0)


def test_listed_words_and_phrases_are_unsafe_in_any_case() -> None:
    for text in ("You MORON, cite it.", "Oh, shut up."):
        assert score(text).components["safety"] == 0.0
    assert score("Oxymorons shut the upper door.").components["safety"] == 1.0


def test_relevance_by_embedding_is_the_cosine() -> None:
    result = score(GOOD, relevance="embedding")
    cosine = cosine_similarity("packaged", PROMPT, GOOD)
    assert 0.4 < cosine == pytest.approx(result.components["relevance"], abs=1e-5)
    off_topic = score("The lake froze early this winter.", relevance="embedding")
    assert off_topic.components["relevance"] < 0.2


def test_metadata_that_is_none_unscores_its_item_alone() -> None:
    reward = HeuristicReward(HeuristicRewardSpec(), UNSAFE, OneClass())
    bad, good = reward.score(
        [ScoreItem(PROMPT, GOOD, metadata={"known_texts": [1]}), ScoreItem(PROMPT, GOOD)]
    )
    assert bad.score is None and "known_texts" in str(bad.error) and good.score is not None


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


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"weights.* 0"):
        build_config(HeuristicRewardSpec, {"weights": dict.fromkeys(PARTS, 0)})
    with pytest.raises(ConfigError, match=r"length_band=\[8, 2, 60, 250\]"):
        build_config(HeuristicRewardSpec, {"length_band": [8, 2, 60, 250]})
