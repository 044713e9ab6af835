"""Duplicates against brute force over all pairs with the exact similarity of their shingles."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.config.curate import DuplicateSpec, NearDuplicateSpec
from polyray.data.words import canonical_text
from polyray.shelf.preferences.curation.duplicates import EXACT, NEAR, clusters, duplicates
from polyray.shelf.preferences.curation.fingerprints import (
    MIN_WORDS,
    MISSED,
    SHINGLE_CHARS,
    band_shape,
    jaccard,
    shingle_hashes,
    similar_groups,
)
from polyray.shelf.preferences.engagement import EngagementRecord
from tests.unit.shelf.preferences.curation.builders import record

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "looked",
    "at",
    "me",
    "as",
    "if",
    "nothing",
    "had",
    "happened",
    "that",
    "day",
]
NEAR_SPEC = NearDuplicateSpec(threshold=0.6)


def shingles(text: str) -> set[str] | None:
    canonical = " ".join(canonical_text(text).split())
    if len(canonical.split()) < MIN_WORDS:
        return None
    size = min(SHINGLE_CHARS, len(canonical))
    return {canonical[at : at + size] for at in range(len(canonical) - size + 1)}


def similarity(a: str, b: str) -> float:
    first, second = shingles(a), shingles(b)
    if first is None or second is None:
        return 0.0
    return len(first & second) / len(first | second)


def variants(seed: int, number: int) -> list[str]:
    """Texts with a few words changed, so that similarities spread from 0 to 1."""
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        words = WORDS[:]
        for _ in range(rng.randint(0, 6)):
            words[rng.randrange(len(words))] = rng.choice(["dog", "tree", "house", "river"])
        texts.append(" ".join(words[: rng.choice([3, 10, 16])]))
    return texts


def test_hashed_shingles_have_the_similarity_of_the_texts() -> None:
    texts = [*variants(0, 30), "Ça va? Оно, 日本語 \U0001f600 text of more words", "a b c d"]
    for a, b in combinations(texts, 2):
        first, second = shingle_hashes(a), shingle_hashes(b)
        if first is None or second is None:
            assert shingles(a) is None or shingles(b) is None
        else:
            assert jaccard(first, second) == pytest.approx(similarity(a, b))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_bands_miss_few_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = band_shape(threshold, 128)
    assert bands * rows <= 128
    assert (1 - threshold**rows) ** bands <= MISSED
    next_bands = 128 // (rows + 1)
    assert (1 - threshold ** (rows + 1)) ** next_bands > MISSED  # one more row would miss too many


def test_groups_are_the_components_of_similar_pairs() -> None:
    for seed in range(4):
        texts = variants(seed, 40)
        groups = similar_groups(texts, NEAR_SPEC)
        expected = list(range(len(texts)))
        changed = True
        while changed:
            changed = False
            for a, b in combinations(range(len(texts)), 2):
                if similarity(texts[a], texts[b]) >= 0.6 and expected[a] != expected[b]:
                    expected[a] = expected[b] = min(expected[a], expected[b])
                    changed = True
        assert groups == expected
        assert 1 < len(set(groups)) < len(texts)


def records_of(seed: int, number: int, prompts: int = 4) -> list[EngagementRecord]:
    rng = random.Random(f"records {seed}")
    return [
        record(f"r{at:02}", text, rng.randint(0, 3), prompt_id=f"p{rng.randrange(prompts)}")
        for at, text in enumerate(variants(seed, number))
    ]


def brute_force(records: list[EngagementRecord], spec: DuplicateSpec, protected: set[str]) -> dict[str, str]:
    kept: list[EngagementRecord] = []
    gone: dict[str, str] = {}
    order = sorted(records, key=lambda r: (r.record_id not in protected, -r.engagement, r.record_id))
    for item in order:
        seen = [k for k in order[: order.index(item)] if spec.scope == "all" or k.prompt_id == item.prompt_id]
        same = [k for k in seen if canonical_text(k.completion) == canonical_text(item.completion)]
        alike = [
            k
            for k in kept
            if k in seen and spec.near and similarity(k.completion, item.completion) >= spec.near.threshold
        ]
        if same and spec.exact and item.record_id not in protected:
            gone[item.record_id] = EXACT
        elif alike and item.record_id not in protected:
            gone[item.record_id] = NEAR
        else:
            kept.append(item)
    return gone


@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_duplicates_match_brute_force(scope: str) -> None:
    reasons = set()
    for seed in range(6):
        records = records_of(seed, 40)
        spec = DuplicateSpec(near=NEAR_SPEC, scope="all" if scope == "all" else "prompt")
        protected = {"r03", "r17"} if seed % 2 else set()
        found = duplicates(records, spec, protected)
        assert {name: reason for name, (reason, _) in found.items()} == brute_force(records, spec, protected)
        reasons |= {reason for reason, _ in found.values()}
        shuffled = records[:]
        random.Random(seed).shuffle(shuffled)
        assert duplicates(shuffled, spec, protected) == found
    assert reasons == {EXACT, NEAR}


def test_best_duplicate_is_kept_and_named_in_the_reason() -> None:
    texts = ["the cat sat on the mat today", "The cat sat on the mat today!", "the cat sat on the mat todays"]
    records = [record(name, text, score) for name, text, score in zip("abc", texts, (1, 5, 3), strict=True)]
    spec = DuplicateSpec(near=NearDuplicateSpec(threshold=0.8))
    assert duplicates(records, spec) == {"a": (EXACT, "of b"), "c": (NEAR, "of b")}
    assert duplicates(records, spec, {"a", "c"}) == {"b": (EXACT, "of a")}
    assert duplicates(records, DuplicateSpec(exact=False, near=spec.near)) == {"c": (NEAR, "of b")}
    assert duplicates(records, DuplicateSpec(near=None)) == {"a": (EXACT, "of b")}


def test_texts_without_words_are_compared_by_their_characters() -> None:
    records = [record("a", "!!!", 1), record("b", "!!! ", 0), record("c", "???")]
    assert duplicates(records, DuplicateSpec()) == {"b": (EXACT, "of a")}


def test_similar_records_are_one_cluster() -> None:
    post = "What do you do when the only printer of the office has been out of ink for weeks"
    records = [
        record("a", prompt=f"{post}?"),
        record("b", prompt=f"{post} now?"),
        record("c", completion="the cat sat on the mat and did not look at me once"),
        record("d", completion="The cat sat on the mat and did not look at me once."),
        record("e", completion="Thanks!"),
        record("f", completion="Thanks!"),
        record("g", cluster_id="cluster-a", prompt_id="prompt-h"),
        record("h"),
    ]
    found = clusters(records, NearDuplicateSpec(threshold=0.8))
    assert found == {
        **dict.fromkeys("abgh", "cluster-a"),
        **dict.fromkeys("cd", "cluster-c"),
        "e": "cluster-e",
        "f": "cluster-f",
    }
    assert clusters(records[::-1], NearDuplicateSpec(threshold=0.8)) == found
    alone = clusters(records, None)
    assert len({alone[name] for name in "abcd"}) == 4 and alone["g"] == alone["h"] == "cluster-a"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.booleans())
def test_no_near_duplicate_is_in_two_clusters(seed: int, whole: bool) -> None:
    records = records_of(seed, 24)
    gone = duplicates(records, DuplicateSpec(near=NEAR_SPEC, scope="all" if whole else "prompt"))
    kept = [item for item in records if item.record_id not in gone]
    found = clusters(kept, NEAR_SPEC)
    for a, b in combinations(kept, 2):
        alike = similarity(a.completion, b.completion) >= NEAR_SPEC.threshold
        assert not (alike and whole), (a, b)
        if alike or a.prompt_id == b.prompt_id:
            assert found[a.record_id] == found[b.record_id]


def test_hashes_are_sorted_and_different() -> None:
    hashes = shingle_hashes(" ".join(WORDS * 3))
    assert hashes is not None and (np.diff(hashes.astype(np.int64)) > 0).all()
