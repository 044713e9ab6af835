"""Scores by content: repeated items are cached, different items are kept apart."""

from __future__ import annotations

from collections.abc import Sequence

from polyray.rewards.base import Score, ScoreItem, unscored
from polyray.serving.reward.score_cache import ScoreCache, item_key


class Lengths:
    """Scores by length; remembers the completions it scored."""

    name, inline, deterministic, score_range = "lengths", False, True, (0.0, 1.0)

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.asked: list[str] = []

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        self.asked += [item.completion for item in items]
        return [
            unscored("no text") if not item.completion else Score(len(item.completion) / 100, 0)
            for item in items
        ]

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        raise AssertionError("a cache of scores asks for no distances")


def items(*completions: str) -> list[ScoreItem]:
    return [ScoreItem("p", completion) for completion in completions]


def values(cache: ScoreCache, reward: Lengths, *completions: str) -> list[float | None]:
    return [score.score for score in cache.score(reward, items(*completions)).scores]


def test_equal_items_are_scored_once_within_a_call_and_across_calls():
    cache, reward = ScoreCache(10), Lengths()
    first = cache.score(reward, items("a", "bb", "a"))
    assert [score.score for score in first.scores] == [0.01, 0.02, 0.01]
    assert (first.hits, first.misses) == (1, 2)
    second = cache.score(reward, items("bb", "ccc"))
    assert [score.score for score in second.scores] == [0.02, 0.03]
    assert (second.hits, second.misses) == (1, 1)
    assert reward.asked == ["a", "bb", "ccc"]


def test_new_version_of_the_reward_is_scored_again():
    cache = ScoreCache(10)
    values(cache, Lengths("1"), "a")
    newer = Lengths("2")
    values(cache, newer, "a")
    assert newer.asked == ["a"]


def test_unscored_completion_is_tried_again():
    cache, reward = ScoreCache(10), Lengths()
    assert values(cache, reward, "", "a", "") == [None, 0.01, None]
    assert values(cache, reward, "", "a") == [None, 0.01]
    assert reward.asked == ["", "a", ""]


def test_cache_keeps_the_most_recently_used_scores_up_to_its_capacity():
    cache, reward = ScoreCache(2), Lengths()
    values(cache, reward, "a", "bb")
    values(cache, reward, "a")
    values(cache, reward, "ccc")
    assert len(cache) == 2
    reward.asked.clear()
    assert values(cache, reward, "a", "bb") == [0.01, 0.02]
    assert reward.asked == ["bb"]
    assert values(cache, reward, "1", "22", "333", "4444") == [0.01, 0.02, 0.03, 0.04]


def test_item_key_depends_on_every_field_of_the_item():
    base = ScoreItem("p", "c", "r", {"a": 1, "b": 2}, ({"role": "user", "content": "p"},))
    other = [
        ScoreItem("p", "c", "r", {"a": 1, "b": 2}),
        ScoreItem("p", "c", None, {"a": 1, "b": 2}),
        ScoreItem("p", "c", "r", {"a": 2, "b": 1}),
        ScoreItem("pc", "", "r", {"a": 1, "b": 2}),
        ScoreItem("p", "c", "r", {"a": 1}),
        base,
    ]
    assert len({item_key("1", item) for item in other}) == len(other)
    assert item_key("1", ScoreItem("p", "c", metadata={"a": 1, "b": 2})) == item_key(
        "1", ScoreItem("p", "c", metadata={"b": 2, "a": 1})
    )
    assert item_key("1", ScoreItem("\ud800", "c")) is not None


def test_an_item_without_a_key_is_scored_every_time():
    cache, reward = ScoreCache(10), Lengths()
    odd = [ScoreItem("p", "a", metadata={"x": object()})] * 2
    assert [score.score for score in cache.score(reward, odd).scores] == [0.01, 0.01]
    assert reward.asked == ["a", "a"] and len(cache) == 0
