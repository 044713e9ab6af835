"""The steps of curation together: reasons, overrides by reviews, disjoint parts."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polyray.config.curate import (
    CurateConfig,
    DuplicateSpec,
    ExportSource,
    FilterSpec,
    NearDuplicateSpec,
    PartsSpec,
    RowsSpec,
    SelectionSpec,
    TokensSpec,
)
from polyray.config.supervised import JsonlDataSpec
from polyray.data.records import read_demonstrations
from polyray.data.words import canonical_text
from polyray.errors import DataError
from polyray.shelf.preferences.curation.pipeline import Curated, Tools, curate
from polyray.shelf.preferences.curation.review import Review
from polyray.shelf.preferences.curation.rows import rl_rows, sft_rows
from polyray.shelf.preferences.curation.tokens import TokenLengths
from polyray.shelf.preferences.engagement import EngagementRecord, Imported
from polyray.tasks.jsonl import read_prompts
from tests.unit.shelf.preferences.curation.builders import record

WORDS = [
    "cat",
    "dog",
    "bird",
    "fish",
    "tree",
    "house",
    "river",
    "stone",
    "cloud",
    "road",
    "bread",
    "water",
    "light",
    "paper",
]


def config(**changes: Any) -> CurateConfig:
    values: dict[str, Any] = {"name": "test", "source": ExportSource(), "parts": PartsSpec(sft_share=0.5)}
    return CurateConfig(**(values | changes))


def run(records: list[EngagementRecord], reviews: dict[str, Review] | None = None, **changes: Any) -> Curated:
    tools = changes.pop("tools", Tools())
    return curate(config(**changes), Imported(tuple(records), len(records)), reviews or {}, tools)


def distinct(number: int) -> list[EngagementRecord]:
    """Records of their own clusters with texts that have little in common."""
    rng = random.Random(number)
    return [
        record(f"r{at:03}", " ".join(f"{rng.choice(WORDS)}{at}x{word}" for word in range(8)), at % 7)
        for at in range(number)
    ]


def test_reasons_and_counts() -> None:
    records = [
        *distinct(20),
        record("short", "No", 5),
        record("link", "look here https://a.org now please", 5),
        record("copy", distinct(20)[3].completion.upper(), -1),
    ]
    done = run(records, {"r007": Review("drop", "off topic")}, filters=FilterSpec(min_words=2, max_links=0))
    assert done.dropped == {
        "r007": ("review", "off topic"),
        "short": ("too short", "1 words, below 2"),
        "link": ("links", "1 links, above 0"),
        "copy": ("exact duplicate", "of r003"),
    }
    numbers = done.statistics
    assert numbers["dropped"] == {"exact duplicate": 1, "links": 1, "review": 1, "too short": 1}
    assert numbers["kept"] == len(done.kept) == 19
    assert [(s["step"], s["in"], s["dropped"], s["out"]) for s in numbers["steps"]] == [
        ("review", 23, 1, 22),
        ("filters", 22, 2, 20),
        ("duplicates", 20, 1, 19),
        ("tokens", 19, 0, 19),
        ("selection", 19, 0, 19),
    ]
    assert sum(numbers["groups"][name]["records"] for name in ("train", "validation", "test")) == 19


def test_a_person_overrides_every_step() -> None:
    records = [*distinct(20), record("short", "No", -9), record("copy", distinct(20)[3].completion, -9)]
    keep = {name: Review("keep") for name in ("short", "copy")}

    def encode(texts: Any) -> np.ndarray:
        return np.tile([[1.0, 0.0]], (len(texts), 1))  # all the same: nothing differs enough

    def count(items: Any) -> dict[str, TokenLengths]:
        return {item.record_id: TokenLengths(1, 99 if item.record_id == "short" else 2) for item in items}

    done = run(
        records,
        keep,
        filters=FilterSpec(min_words=2, min_engagement=0),
        select=SelectionSpec(count=3, min_distance=0.0, max_per_prompt=1),
        model=TokensSpec(path="none", max_tokens=50, too_long="drop"),
        tools=Tools(encode, count),
        parts=PartsSpec(sft_share=1),
    )
    assert {"short", "copy"} < {item.record_id for item in done.kept}
    assert len(done.kept) == 3
    assert done.statistics["review"] == {"keep": 2, "drop": 0, "notes": 0, "kept_against_a_rule": 2}
    assert done.statistics["tokens"]["above"] == 1
    assert done.dropped["r003"][0] == "exact duplicate"  # of the one that must stay
    assert done.statistics["selection"]["chosen"]["records"] == 3


def test_token_lengths_count_or_drop() -> None:
    records = distinct(10)

    def count(items: Any) -> dict[str, TokenLengths]:
        return {item.record_id: TokenLengths(5, 10 + int(item.record_id[1:])) for item in items}

    for too_long, kept in (("count", 10), ("drop", 6)):
        done = run(
            records,
            model=TokensSpec.model_validate({"path": "none", "max_tokens": 15, "too_long": too_long}),
            tools=Tools(count_tokens=count),
        )
        assert len(done.kept) == kept
        assert done.statistics["tokens"]["above"] == 4
        assert done.statistics["tokens"]["total"]["q100"] == 19
    assert done.dropped["r009"] == ("too many tokens", "19 tokens, above 15")


def test_empty_indivisible_or_unknown_records_are_refused() -> None:
    with pytest.raises(DataError, match=r"5 records .*{'too short': 5}"):
        run(distinct(5), filters=FilterSpec(min_words=50))
    with pytest.raises(DataError, match=r"2 records: .*2 clusters .*train"):
        run(distinct(2))
    with pytest.raises(DataError, match=r"review\.csv:2: record_id 'x' "):
        run(distinct(5), {"x": Review("keep", where="review.csv:2")})


def community(seed: int) -> list[EngagementRecord]:
    """Threads whose posts and replies repeat each other here and there."""
    rng = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(length))

    posts = [text(12) for _ in range(14)]
    replies = [[text(9) for _ in range(3)] for _ in posts]
    records = []
    for at in range(60):
        post = rng.randrange(len(posts))
        own = post if rng.random() < 0.95 else rng.randrange(len(posts))
        words = rng.choice(replies[own]).split()
        if rng.random() < 0.5:
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        near_post = posts[post] if rng.random() < 0.7 else f"{posts[post]} {rng.choice(WORDS)}"
        records.append(
            record(
                f"r{at:02}",
                " ".join(words),
                rng.randint(-1, 6),
                prompt=near_post,
                prompt_id=f"p{post}-{canonical_text(near_post)[-5:]}",
                cluster_id=f"t{post % 12}",
            )
        )
    return records


def jaccard(a: str, b: str) -> float:
    first, second = ({text[at : at + 5] for at in range(len(text) - 4)} for text in (a, b))
    return len(first & second) / len(first | second)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from(["all", "prompt"]), st.integers(0, 3))
def test_parts_and_phases_share_no_text_and_ignore_the_order(seed: int, scope: Any, split: int) -> None:
    records = community(seed)
    changes: dict[str, Any] = {
        "duplicates": DuplicateSpec(scope=scope, near=NearDuplicateSpec(threshold=0.7)),
        "parts": PartsSpec(test_share=0.2, validation_share=0),
        "seed": split,
    }
    try:
        done = run(records, **changes)
    except DataError as error:
        assert "clusters" in str(error)
        assume(False)  # too much is alike in this community
        raise
    sharing: dict[str, set[Any]] = defaultdict(set)
    for item in done.kept:
        for key in (
            item.cluster_id,
            item.prompt_id,
            canonical_text(item.prompt),
            canonical_text(item.completion),
        ):
            sharing[key].add((item.part, item.phase))
    assert all(len(places) == 1 for places in sharing.values())
    for at, a in enumerate(done.kept):
        for b in done.kept[:at]:
            if (a.part, a.phase) != (b.part, b.phase):
                assert jaccard(canonical_text(a.prompt), canonical_text(b.prompt)) < 0.7
                assert jaccard(canonical_text(a.completion), canonical_text(b.completion)) < 0.7
    random.Random(seed).shuffle(records)
    ordered = Imported(tuple(sorted(records, key=lambda r: r.record_id)), len(records))
    again = curate(config(**changes), ordered, {}, Tools())
    assert (again.kept, again.dropped, again.statistics) == (done.kept, done.dropped, done.statistics)


def test_rows_are_read_by_sft_and_rl(tmp_path: Path) -> None:
    post = "one two three four five"
    records = [
        record(
            "a",
            "Best.",
            9,
            prompt=post,
            prompt_id="p/answer",
            url="https://x/1",
            licence="CC0",
            kind="answer",
        ),
        record("b", "Good.", 5, prompt=post, prompt_id="p/comment"),
        record("c", "Other.", 1, prompt="Up early?", prompt_id="q"),
    ]
    for mode in ("chat", "completion"):
        spec = RowsSpec.model_validate(
            {"mode": mode, "instruction": "Reply: {source}", "max_source_words": 4}
        )
        sft, rl = tmp_path / "sft.jsonl", tmp_path / "rl.jsonl"
        sft.write_text("".join(json.dumps(row) + "\n" for row in sft_rows(records, spec)))
        rl.write_text("".join(json.dumps(row) + "\n" for row in rl_rows(records, spec)))
        shown, _ = read_demonstrations(JsonlDataSpec(train=str(sft)))
        asked = ["Reply: one two three four [...]", "Reply: Up early?"]
        assert [(item.prompt.text, item.response) for item in shown] == [
            (asked[0], "Best."),
            (asked[0], "Good."),
            (asked[1], "Other."),
        ]
        rows = read_prompts(rl)
        assert [(r.prompt.text, r.prompt.prompt_id, r.response) for r in rows] == [
            (asked[0], "p/answer", "Best."),
            (asked[1], "q", "Other."),
        ]
        assert rows[0].prompt.reference is None
        assert (rows[0].prompt.messages is not None) == (mode == "chat")
        assert rows[0].prompt.metadata == {
            "source": "one two three four [...]",
            "prompt_ids": ["p/answer", "p/comment"],
            "completions": 2,
            "best_engagement": 9.0,
            "url": "https://x/1",
            "licence": "CC0",
            "kind": "answer",
        }
    assert sft_rows(records, spec)[0]["licence"] == "CC0"
    assert len(sft_rows(records, RowsSpec())) == 3


def test_rows_have_the_instructions_of_the_tasks() -> None:
    reply, headline = record("a", prompt="Cite {source}?"), record("b", kind="headline")
    texts = [row["messages"][0]["content"] for row in rl_rows([reply, headline], RowsSpec())]
    assert texts[0].endswith("be brief, and write nothing but the reply.\n\nCite {source}?")
    assert texts[1].startswith("Write the headline of the story below")
