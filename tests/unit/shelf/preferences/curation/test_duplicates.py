"""Duplicates against brute force over all pairs with the exact similarity of their shingles."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from polyray.config.curate import DuplicateSpec, NearDuplicateSpec
from polyray.data.words import canonical_text
from polyray.shelf.preferences.curation.duplicates import EXACT, NEAR, clusters, duplicates
from polyray.shelf.preferences.curation.fingerprints import (
    MISSED,
    band_shape,
    jaccard,
    shingle_hashes,
    similar_groups,
)
from polyray.shelf.preferences.engagement import EngagementRecord
from tests.unit.shelf.preferences.curation.builders import record, shingles, similarity

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


def records_of(seed: int, number: int, prompts: int = 4) -> list[EngagementRecord]:
    rng = random.Random(f"records {seed}")
    return [
        record(f"r{at:02}", text, rng.randint(0, 3), prompt_id=f"p{rng.randrange(prompts)}")
        for at, text in enumerate(variants(seed, number))
    ]


def test_shingle_hashes_keep_the_similarity_of_texts() -> None:
    texts = [*variants(0, 30), "Ça va? Оно, 日本語 \U0001f600 text of more words", "a b c d"]
    for a, b in combinations(texts, 2):
        first, second = shingle_hashes(a), shingle_hashes(b)
        if first is None or second is None:
            assert shingles(a) is None or shingles(b) is None
        else:
            assert (np.diff(first.astype(np.int64)) > 0).all()
            assert jaccard(first, second) == pytest.approx(similarity(a, b))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_band_shape_has_the_most_rows_that_miss_few_pairs(threshold: float) -> None:
    bands, rows = band_shape(threshold, 128)
    assert bands * rows <= 128
    assert (1 - threshold**rows) ** bands <= MISSED < (1 - threshold ** (rows + 1)) ** (128 // (rows + 1))


def test_similar_groups_are_components_of_similar_pairs() -> None:
    for seed in range(4):
        texts = variants(seed, 40)
        alike = [(a, b) for a, b in combinations(range(40), 2) if similarity(texts[a], texts[b]) >= 0.6]
        expected = list(range(40))
        for a, b in alike * 40:  # the smallest number spreads over one pair a round
            expected[a] = expected[b] = min(expected[a], expected[b])
        assert similar_groups(texts, NEAR_SPEC) == expected
        assert 1 < len(set(expected)) < len(texts)


def brute_force(records: list[EngagementRecord], spec: DuplicateSpec, protected: set[str]) -> dict[str, str]:
    kept: list[EngagementRecord] = []
    gone: dict[str, str] = {}
    order = sorted(records, key=lambda r: (r.record_id not in protected, -r.engagement, r.record_id))
    for at, item in enumerate(order):
        seen = [other for other in order[:at] if spec.scope == "all" or other.prompt_id == item.prompt_id]
        same = any(canonical_text(other.completion) == canonical_text(item.completion) for other in seen)
        alike = any(similarity(k.completion, item.completion) >= 0.6 for k in kept if k in seen)
        if item.record_id not in protected and (same or alike):
            gone[item.record_id] = EXACT if same else NEAR
        else:
            kept.append(item)
    return gone


@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_duplicates_match_brute_force_in_any_order(scope: str) -> None:
    reasons = set()
    spec = DuplicateSpec.model_validate({"near": NEAR_SPEC, "scope": scope})
    for seed in range(6):
        records = records_of(seed, 40)
        protected = {"r03", "r17"} if seed % 2 else set()
        found = duplicates(records, spec, protected)
        assert {name: reason for name, (reason, _) in found.items()} == brute_force(records, spec, protected)
        reasons |= {reason for reason, _ in found.values()}
        random.Random(seed).shuffle(records)
        assert duplicates(records, spec, protected) == found
    assert reasons == {EXACT, NEAR}


def test_duplicates_name_the_record_that_is_kept() -> None:
    texts = ["the cat sat on the mat today", "The cat sat on the mat today!", "the cat sat on the mat todays"]
    records = [record(name, text, score) for name, text, score in zip("abc", texts, (1, 5, 3), strict=True)]
    near = NearDuplicateSpec(threshold=0.8)
    assert duplicates(records, DuplicateSpec(near=near)) == {"a": (EXACT, "of b"), "c": (NEAR, "of b")}
    assert duplicates(records, DuplicateSpec(near=near), {"a", "c"}) == {"b": (EXACT, "of a")}
    assert duplicates(records, DuplicateSpec(exact=False, near=near)) == {"c": (NEAR, "of b")}
    assert duplicates(records, DuplicateSpec(near=None)) == {"a": (EXACT, "of b")}
    wordless = [record("a", "!!!", 1), record("b", "!!! ", 0), record("c", "???")]
    assert duplicates(wordless, DuplicateSpec()) == {"b": (EXACT, "of a")}


def test_clusters_join_records_with_similar_texts() -> None:
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
    joined = dict(
        zip("abghcdef", ["cluster-a"] * 4 + ["cluster-c"] * 2 + ["cluster-e", "cluster-f"], strict=True)
    )
    for rows in (records, records[::-1]):
        assert clusters(rows, NearDuplicateSpec(threshold=0.8)) == joined
    alone = clusters(records, None)
    assert len({alone[name] for name in "abcd"}) == 4 and alone["g"] == alone["h"] == "cluster-a"
