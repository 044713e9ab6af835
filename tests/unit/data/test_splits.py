"""Splits share nothing: linked clusters against a flood fill, parts against their shares."""

from __future__ import annotations

import random

import pytest

from polyray.data.splits import linked_clusters, split_clusters


def flood_fill(keys: list[set[str]]) -> list[int]:
    """Components of the graph in which rows with a common key are neighbours; named after the first row."""
    component = [-1] * len(keys)
    for start in range(len(keys)):
        waiting = [start] if component[start] == -1 else []
        while waiting:
            row = waiting.pop()
            component[row] = start
            waiting += [at for at in range(len(keys)) if component[at] == -1 and keys[at] & keys[row]]
    return component


def test_linked_clusters_are_connected_components() -> None:
    rng = random.Random(0)
    sizes = set()
    for _ in range(300):
        keys = [{rng.choice("abcdefghijkl") for _ in range(rng.randint(0, 3))} for _ in range(8)]
        clusters = linked_clusters(keys)
        assert clusters == flood_fill(keys)
        sizes.add(len(set(clusters)))
    assert sizes >= set(range(1, 7))
    assert linked_clusters([{"a"}, {"c"}, {"b", "c"}, {"a", "b"}, set()]) == [0, 0, 0, 0, 4]


def test_split_clusters_has_its_shares_in_any_order() -> None:
    names = [f"c{number}" for number in range(50)]
    part_of = split_clusters(names, test_share=0.2, validation_share=0.1, seed=3)
    parts = list(part_of.values())
    assert (parts.count("test"), parts.count("validation"), parts.count("train")) == (10, 5, 35)
    assert part_of == split_clusters(reversed(names * 2), test_share=0.2, validation_share=0.1, seed=3)
    assert part_of != split_clusters(names, test_share=0.2, validation_share=0.1, seed=4)


def test_small_share_is_at_least_one_cluster() -> None:
    parts = list(split_clusters("abc", test_share=0.01, validation_share=0.01, seed=0).values())
    assert sorted(parts) == ["test", "train", "validation"]
    assert set(split_clusters("abc", test_share=0, validation_share=0, seed=0).values()) == {"train"}
    with pytest.raises(ValueError, match=r"\b2 clusters.*\b1\b.*\b1\b"):
        split_clusters("ab", test_share=0.1, validation_share=0.1, seed=0)
