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
            Score(len(item.completion) / 100, 0) if item.completion else unscored("no text") for item in items
        ]

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        raise AssertionError("a cache of scores asks for no distances")


def values(cache: ScoreCache, reward: Lengths, *completions: str) -> list[float | None]:
    scored = cache.score(reward, [ScoreItem("p", completion) for completion in completions])
    assert scored.hits + scored.misses == len(completions)
    return [score.score for score in scored.scores]


def test_cache_scores_equal_items_of_one_version_once() -> None:
    cache, reward, newer = ScoreCache(10), Lengths(), Lengths("2")
    assert values(cache, reward, "a", "bb", "a") == [0.01, 0.02, 0.01]
    assert values(cache, reward, "bb", "ccc") == [0.02, 0.03]
    assert reward.asked == ["a", "bb", "ccc"]
    assert values(cache, newer, "a") == [0.01] and newer.asked == ["a"]


def test_cache_scores_unscored_items_and_items_without_a_key_again() -> None:
    cache, reward = ScoreCache(10), Lengths()
    assert values(cache, reward, "", "a", "") == [None, 0.01, None]
    assert values(cache, reward, "", "a") == [None, 0.01]
    assert reward.asked == ["", "a", ""]
    odd = [ScoreItem("p", "b", metadata={"x": object()})] * 2
    assert [score.score for score in cache.score(reward, odd).scores] == [0.01, 0.01]
    assert reward.asked[3:] == ["b", "b"] and len(cache) == 1


def test_cache_keeps_the_most_recently_used_scores_up_to_its_capacity() -> None:
    cache, reward = ScoreCache(2), Lengths()
    for completions in (("a", "bb"), ("a",), ("ccc",)):
        values(cache, reward, *completions)
    assert len(cache) == 2
    reward.asked.clear()
    assert values(cache, reward, "a", "bb") == [0.01, 0.02]
    assert reward.asked == ["bb"]
    assert values(cache, reward, "1", "22", "333", "4444") == [0.01, 0.02, 0.03, 0.04]


def test_item_key_depends_on_every_field_of_the_item() -> None:
    items = [
        ScoreItem("p", "c", "r", {"a": 1, "b": 2}, ({"role": "user", "content": "p"},)),
        ScoreItem("p", "c", "r", {"a": 1, "b": 2}),
        ScoreItem("p", "c", None, {"a": 1, "b": 2}),
        ScoreItem("p", "c", "r", {"a": 2, "b": 1}),
        ScoreItem("pc", "", "r", {"a": 1, "b": 2}),
        ScoreItem("\ud800", "c", "r", {"a": 1}),
    ]
    assert len({item_key("1", item) for item in items} - {None}) == len(items)
    swapped = ScoreItem("p", "c", "r", {"b": 2, "a": 1})
    assert item_key("1", items[1]) == item_key("1", swapped) != item_key("2", swapped)
