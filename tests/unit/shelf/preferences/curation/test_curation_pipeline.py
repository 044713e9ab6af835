"""The steps of curation together: reasons, overrides by reviews, disjoint parts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def run(records: list[EngagementRecord], reviews: dict[str, Review] | None = None, **changes: Any) -> Curated:
    tools = changes.pop("tools", Tools())
    values = {"name": "test", "source": ExportSource(), "parts": PartsSpec(sft_share=0.5), **changes}
    return curate(CurateConfig(**values), Imported(tuple(records), len(records)), reviews or {}, tools)


def distinct(number: int) -> list[EngagementRecord]:
    """Records of their own clusters with texts that have little in common."""
    rng = random.Random(number)
    return [
        record(f"r{at:03}", " ".join(f"{rng.choice(WORDS)}{at}x{word}" for word in range(8)), at % 7)
        for at in range(number)
    ]


def lengths(total: Callable[[str], int]) -> Callable[[Any], dict[str, TokenLengths]]:
    """A counter of tokens: `total` of the name of a record."""
    return lambda items: {item.record_id: TokenLengths(5, total(item.record_id)) for item in items}


def test_curate_gives_reasons_and_counts_of_each_step() -> None:
    records = [
        *distinct(20),
        record("short", "No", 5),
        record("link", "look here https://a.org now please", 5),
        record("copy", distinct(20)[3].completion.upper(), -1),
    ]
    done = run(
        records,
        {"r007": Review("drop", "off topic")},
        filters=FilterSpec(min_words=2, max_links=0),
        model=TokensSpec(path="none", max_tokens=15, too_long="count"),
        tools=Tools(count_tokens=lengths(lambda name: int(name[1:]) if name[1:].isdigit() else 0)),
    )
    assert (done.statistics["tokens"]["above"], done.statistics["tokens"]["total"]["q100"]) == (4, 19)
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


def test_curate_keeps_reviewed_records_against_every_step() -> None:
    records = [*distinct(20), record("short", "No", -9), record("copy", distinct(20)[3].completion, -9)]
    alike = Tools(
        encode=lambda texts: np.tile([[1.0, 0.0]], (len(texts), 1)),
        count_tokens=lengths(lambda name: 99 if name == "short" else 2),
    )
    done = run(
        records,
        {name: Review("keep") for name in ("short", "copy")},
        filters=FilterSpec(min_words=2, min_engagement=0),
        select=SelectionSpec(count=3, min_distance=0.0, max_per_prompt=1),
        model=TokensSpec(path="none", max_tokens=50, too_long="drop"),
        tools=alike,
        parts=PartsSpec(sft_share=1),
    )
    assert {"short", "copy"} < {item.record_id for item in done.kept}
    assert len(done.kept) == done.statistics["selection"]["chosen"]["records"] == 3
    assert done.statistics["review"] == {"keep": 2, "drop": 0, "notes": 0, "kept_against_a_rule": 2}
    assert done.statistics["tokens"]["above"] == 1
    assert done.dropped["r003"][0] == "exact duplicate"  # of the one that must stay


def test_curate_refuses_empty_indivisible_and_unknown_records() -> None:
    with pytest.raises(DataError, match=r"5 records .*{'too short': 5}"):
        run(distinct(5), filters=FilterSpec(min_words=50))
    with pytest.raises(DataError, match=r"2 records: .*2 clusters .*train"):
        run(distinct(2))
    with pytest.raises(DataError, match=r"review\.csv:2: record_id 'x' "):
        run(distinct(5), {"x": Review("keep", where="review.csv:2")})


def test_curate_puts_near_duplicates_of_prompts_into_one_part() -> None:
    post = "What do you do when the only printer of the office has been out of ink for weeks"
    near = DuplicateSpec(near=NearDuplicateSpec(threshold=0.7))
    for seed in range(4):
        records = [*distinct(20), record("one", prompt=f"{post}?"), record("two", prompt=f"{post} now?")]
        done = run(records, duplicates=near, seed=seed)
        one, two = (item for item in done.kept if item.prompt.startswith(post))
        assert (one.cluster_id, one.part, one.phase) == (two.cluster_id, two.part, two.phase)


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_rows_are_read_by_sft_and_rl(tmp_path: Path, mode: str) -> None:
    post: dict[str, Any] = {"prompt": "one two three four five"}
    known = {"url": "https://x/1", "licence": "CC0", "kind": "answer"}
    records = [
        record("a", "Best.", 9, prompt_id="p/answer", **post, **known),
        record("b", "Good.", 5, prompt_id="p/comment", **post),
        record("c", "Other.", 1, prompt="Up early?", prompt_id="q"),
    ]
    spec = RowsSpec.model_validate({"mode": mode, "instruction": "Reply: {source}", "max_source_words": 4})
    sft, rl = tmp_path / "sft.jsonl", tmp_path / "rl.jsonl"
    sft.write_text("".join(json.dumps(row) + "\n" for row in sft_rows(records, spec)))
    rl.write_text("".join(json.dumps(row) + "\n" for row in rl_rows(records, spec)))
    shown, _ = read_demonstrations(JsonlDataSpec(train=str(sft)))
    first, second = "Reply: one two three four [...]", "Reply: Up early?"
    expected = [(first, "Best."), (first, "Good."), (second, "Other.")]
    assert [(item.prompt.text, item.response) for item in shown] == expected
    rows = read_prompts(rl)
    assert [(r.prompt.text, r.prompt.prompt_id, r.response) for r in rows] == [
        (first, "p/answer", "Best."),
        (second, "q", "Other."),
    ]
    assert rows[0].prompt.reference is None
    assert (rows[0].prompt.messages is not None) == (mode == "chat")
    assert rows[0].prompt.metadata == {
        "source": "one two three four [...]",
        "prompt_ids": ["p/answer", "p/comment"],
        "completions": 2,
        "best_engagement": 9.0,
        **known,
    }
    assert sft_rows(records, spec)[0]["licence"] == "CC0"
    headline, reply = (
        rl_rows([record("a", prompt="Cite {source}?", kind=kind)], RowsSpec())[0]["messages"][0]["content"]
        for kind in ("headline", "answer")
    )
    assert "headline" in headline and "reply" in reply and reply.endswith("Cite {source}?")
