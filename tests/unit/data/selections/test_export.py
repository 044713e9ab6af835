"""Exported rows against literal expectations and their readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import load_config
from polyray.config.reward_model import TrainRewardConfig
from polyray.config.supervised import JsonlDataSpec
from polyray.data.records import read_demonstrations
from polyray.data.selections import CandidatesRecord, SelectionRecord, StoredRecord
from polyray.data.selections.export import Exported, export, is_alike
from polyray.shelf.preferences.engagement import PreferencePair, read_records
from polyray.shelf.preferences.reward_model.data import load_training_data
from tests.unit.data.selections.builders import SHA256, candidates_record

ROOT = Path(__file__).resolve().parents[4]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which way?"},
    {"role": "assistant", "content": "To where?"},
    {"role": "user", "content": "To the sea."},
]
LONG = "The harbour is behind the second bridge, past the bakery that opens at six and the long wall of the ropeyard."


def answered(shown: CandidatesRecord, index: int | None, edited: str | None = None) -> StoredRecord:
    return StoredRecord(shown, SelectionRecord("sel-1", 1.0, shown.id, "ann", index, edited))


def places(pair: dict[str, Any]) -> tuple[int | None, int, bool]:
    found = pair["metadata"]
    return found["position"], found["rejected_position"], found["edited"]


def rejected(exported: Exported) -> list[tuple[str, str]]:
    return [(row["chosen"], row["rejected"]) for row in exported.pairs]


@pytest.mark.parametrize("prompt", ["Which way?", CHAT])
def test_pick_is_a_pair_with_every_other_candidate(prompt: Any) -> None:
    def reply(text: str) -> Any:
        return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]

    found = export([answered(candidates_record("c1", ["left", "right", "back"], prompt=prompt), 1)])
    shared = {
        "candidates_id": "c1", "model": "policy-v17", "policy": SHA256, "selector": "logprob", "k": 3,
        "position": 1, "edited": False,
    }  # fmt: skip
    assert found.pairs == [
        {"prompt": prompt, "chosen": reply("right"), "rejected": reply(text),
         "metadata": {**shared, "rejected_position": at}}
        for at, text in ((0, "left"), (2, "back"))
    ]  # fmt: skip
    chat = {"messages": [*CHAT, *reply("right")]}
    plain = {"prompt": prompt, "completion": "right"}
    assert found.demonstrations == [plain if isinstance(prompt, str) else chat]
    assert dict(found.counts) == {"sets": 1, "selections": 1, "picked": 1}
    assert dict(found.left_out) == {}


def test_edited_text_beats_its_original() -> None:
    shown = candidates_record("c1", ["left", "right", "go left now"])
    found = export([answered(shown, 1, "go left  now")])
    assert rejected(found) == [("go left  now", "right"), ("go left  now", "left")]  # and not its equal at 2
    assert places(found.pairs[0]) == (1, 1, True)
    assert found.demonstrations == [{"prompt": "Which way?", "completion": "go left  now"}]
    assert found.counts["edited"] == 1


def test_small_edit_counts_and_outer_white_space_does_not() -> None:
    shown = candidates_record("c1", [LONG, "left"])
    found = export([answered(shown, 0, LONG.replace("six", "seven"))])
    assert [row["rejected"] for row in found.pairs] == [LONG, "left"]
    repaired = export([answered(candidates_record("c2", ["if a:\nb", "left"]), 0, "if a:\n  b")])
    assert rejected(repaired) == [("if a:\n  b", "if a:\nb"), ("if a:\n  b", "left")]
    unchanged = export([answered(shown, 0, f"{LONG}\n")])
    assert rejected(unchanged) == [(LONG, "left")]
    assert unchanged.pairs[0]["metadata"]["edited"] is False
    assert unchanged.counts["edited"] == 0


def test_null_selection_gives_no_choice_without_a_written_text() -> None:
    shown = candidates_record("c1", ["left", "right"])
    found = export([answered(shown, None), answered(shown, None, "over the bridge")])
    assert rejected(found) == [("over the bridge", "left"), ("over the bridge", "right")]
    assert places(found.pairs[0]) == (None, 0, True)
    assert dict(found.counts) == {"sets": 2, "selections": 2, "none": 1, "written_instead": 1}
    assert dict(found.left_out) == {"none of them was good enough": 1}


def test_unsuitable_candidates_are_never_rejected() -> None:
    """The same text, one with a slip in it, blank ones, failed ones; and no text twice."""
    texts = [LONG, f" {LONG}\n", LONG.replace("bakery", "baxery"), "", "left", "left ", "half a", "right"]
    reasons = ["stop"] * 6 + ["error", "length"]
    found = export([answered(candidates_record("c1", texts, finish_reasons=reasons), 0)])
    assert [(row["rejected"], places(row)[1]) for row in found.pairs] == [("left", 4), ("right", 7)]


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("return a + b", "return  a + b\n", True),
        ("return a + b", "return a - b", False),
        ("-5", "5", False),
        ("RRUU", "rruu", False),
        ("yes", "yes!", False),
        (LONG, LONG.replace("bakery", "baxery"), True),  # 100 of 110 5-grams
        (LONG, LONG.replace("six", "seven"), False),  # 94 of 108
        ("", " ", True),
    ],
)
def test_is_alike_is_symmetric_and_follows_the_limit(a: str, b: str, alike: bool) -> None:
    assert is_alike(a, b) is is_alike(b, a) is alike
    # 13 letters have 9 5-grams; two texts that differ in the last letter share 8 of 10.
    assert is_alike("abcdefghijklm", "abcdefghijklX", max_similarity=0.8)
    assert not is_alike("abcdefghijklm", "abcdefghijklX", max_similarity=0.81)


def test_records_without_a_row_are_counted_by_reason() -> None:
    two = ["left", "right"]
    records = [
        StoredRecord(candidates_record("c1", two), None),
        answered(candidates_record("c2", ["left"]), 0),
        answered(candidates_record("c3", two, prompt=" \n"), 0),
        answered(candidates_record("c4", two, prompt=CHAT[:3]), 0),
        answered(candidates_record("c5", ["left", "  "]), 1),
        answered(candidates_record("c6", ["left", "left\n"]), 0),
        answered(candidates_record("c7", two, finish_reasons=["length", "stop"]), 0),
        answered(candidates_record("c8", two, finish_reasons=["length", "stop"]), 0, "left it is"),
    ]
    found = export(records)
    assert dict(found.left_out) == {
        "not picked yet": 1,
        "too few candidates were shown": 1,
        "blank prompt": 1,
        "the messages do not end with the user's turn": 1,
        "blank choice": 1,
        "no pair: every other candidate is the same text": 1,
        "no demonstration: the text is cut off at max_tokens": 1,
    }
    assert rejected(found) == [("left", "right"), ("left it is", "left"), ("left it is", "right")]
    assert [row["completion"] for row in found.demonstrations] == ["left", "left it is"]
    alone = export(records[1:2], min_candidates=1)
    assert alone.pairs == [] and alone.demonstrations == [{"prompt": "Which way?", "completion": "left"}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_exported_files_are_read_by_their_jobs(tmp_path: Path) -> None:
    texts = ["left", "right", "back"]
    records = [
        answered(candidates_record(f"c{place}", texts, prompt=f"Which way, {place}?"), place % 3)
        for place in range(12)
    ]
    chat = answered(candidates_record("chat", texts, prompt=CHAT), 2)
    found = export([*records, chat])
    pairs = write(tmp_path / "pairs.jsonl", found.pairs)
    read = [pair for pair in read_records(pairs) if isinstance(pair, PreferencePair)]
    assert len(read) == len(found.pairs) == 26
    assert (read[0].prompt, read[0].chosen, read[0].rejected) == ("Which way, 0?", "left", "right")
    assert (read[-1].prompt, read[-1].chosen, read[-1].rejected) == ("To the sea.", "back", "right")
    config = load_config(TrainRewardConfig, ROOT / "configs/reward/my_pairs.yaml", [f"data.path={pairs}"])
    counts = load_training_data(config).counts
    assert counts["train_pairs"] + counts["validation_pairs"] == 26
    assert counts["train_clusters"] + counts["validation_clusters"] == 13
    assert counts["blank_pairs"] == 0
    demonstrations = write(tmp_path / "sft.jsonl", found.demonstrations)
    training, _ = read_demonstrations(JsonlDataSpec(train=str(demonstrations)))
    assert [item.response for item in training] == ["left", "right", "back"] * 4 + ["back"]
    assert training[0].prompt.text == "Which way, 0?"
    assert training[-1].prompt.messages == tuple(CHAT)
