"""Raw files become records: ids, clusters, times and engagement, the same in any order of the rows."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.curate import (
    BetaPriorSpec,
    ExportSource,
    HubSource,
    RecordsSource,
    StackExchangeSource,
    UpworthySource,
)
from polyray.config.loader import build_config
from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.engagement import import_records, import_source
from polyray.shelf.preferences.engagement.priors import estimated_prior


def reply(name: str, parent: str, text: str, score: int, second: int, kind: str = "answer") -> dict[str, Any]:
    created = f"2011-10-11T00:{second // 60:02}:{second % 60:02}"
    return {"id": name, "kind": kind, "parent": parent, "text": text, "score": score, "created": created}


def thread(number: int, title: str, *replies: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "title": title,
        "text": "Should we cite?",
        "created": "2011-10-11T00:00:00",
        "url": f"https://history.example/q/{number}",
        "license": "CC BY-SA 3.0",
        "replies": list(replies) or [reply("a2", f"q{number}", "Yes.", 5, 120)],
    }


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_threads_become_records_with_time_and_position(tmp_path: Path) -> None:
    replies = [reply("a2", "q1", "Yes.", 5, 120), reply("a3", "q1", "No.", -1, 60)]
    rows = [thread(1, "Sources?", *replies, reply("c4", "a2", "Why?", 0, 150, "comment"))]
    path = write(tmp_path / "threads.jsonl", rows)
    found = import_records(StackExchangeSource(path=path))
    yes, no, why = found
    assert [r.record_id for r in found] == [f"history.example/q1/{name}" for name in ("a2", "a3", "c4")]
    assert (yes.prompt, why.prompt) == ("Sources?\n\nShould we cite?", "Sources?\n\nYes.")
    assert yes.prompt_id == no.prompt_id == "history.example/q1/q1/answer"
    assert why.prompt_id == "history.example/q1/a2/comment"
    assert {r.cluster_id for r in found} == {"thread:history.example/q1"}
    assert [(r.engagement, r.position, r.age_s) for r in found] == [(5, 1, 120), (-1, 0, 60), (0, 0, 30)]
    assert (yes.licence, yes.url, yes.kind) == ("CC BY-SA 3.0", "https://history.example/q/1", "answer")
    only = import_source(StackExchangeSource(path=path, kind="comment"))
    assert [r.record_id for r in only.records] == ["history.example/q1/c4"]
    assert (only.num_rows, only.left_out) == (3, {"replies of another kind than comment": 2})


def test_threads_with_one_prompt_are_one_cluster(tmp_path: Path) -> None:
    rows = [thread(9, "sources"), thread(1, "Sources?"), thread(0, "Dates?")]
    records = import_records(StackExchangeSource(path=write(tmp_path / "t.jsonl", rows)))
    clusters = {
        r.record_id.split("/")[1]: r.cluster_id.removeprefix("thread:history.example/") for r in records
    }
    assert clusters == {"q0": "q0", "q1": "q1", "q9": "q1"}


def package(test: str, headline: str, shown: int, clicks: int, **more: Any) -> dict[str, Any]:
    own = {"test_id": test, "headline": headline, "impressions": shown, "clicks": clicks}
    return {**own, "image_id": "i1", "lede": f"Story of {test}.", **more}


def test_headline_tests_are_pooled_and_joined_by_story(tmp_path: Path) -> None:
    rows = [
        package("t1", "Bees!", 1000, 30),
        package("t1", "Bees!", 1000, 10, excerpt="Own."),
        package("t1", "Bees!", 500, 5, image_id="i2"),
        package("t1", "Wasps?", 1000, 5),
        package("t2", "Cows", 100, 1, lede="Story of T1"),
        package("t3", "Cats", 100, 1, week=201330),
        package("t4", "Dogs", 100, 1, lede=""),
    ]
    prior = BetaPriorSpec(rate=0.02, impressions=100)
    found = import_source(UpworthySource(path=write(tmp_path / "u.jsonl", rows), prior=prior))
    by_text = {(r.completion, r.prompt_id): r for r in found.records}
    bees = by_text["Bees!", "t1/i1"]
    assert (bees.clicks, bees.impressions) == (40, 2000)
    assert bees.engagement == pytest.approx(math.log((40 + 2) / (1960 + 98)))
    assert bees.prompt == "Story of t1.\nOwn."
    assert set(by_text) == {("Bees!", "t1/i1"), ("Bees!", "t1/i2"), ("Wasps?", "t1/i1"), ("Cows", "t2/i1")}
    assert {r.cluster_id for r in found.records} == {"story:t1"}  # t1 and t2 share their lede
    assert found.num_rows == 7
    assert found.left_out == {
        "packages of weeks with faulty randomisation": 1,
        "packages of tests without a text about the story": 1,
        "packages pooled with one of the same test, image and headline": 1,
    }


EXPORT = [
    {"prompt": "Up early?", "reply": "The cat is.", "likes": 12, "created_at": "2026-03-01T12:30:00Z"},
    {"prompt": "Up early?", "reply": "No.", "likes": 0, "created_at": "2026-03-01T13:00:00+01:00"},
    {"prompt": "Coffee?", "reply": "Tea.", "likes": 3},
]


def test_export_columns_with_other_names_are_mapped(tmp_path: Path) -> None:
    rows = [{"post": "Up early?", "text": "The cat.", "hearts": 2, "post_id": 7, "lang": "en", "likes": 99}]
    path = write(tmp_path / "e.jsonl", rows)
    columns = {"prompt": "post", "completion": "text", "engagement": "hearts", "thread_id": "post_id"}
    found = import_source(ExportSource(path=path, columns=columns))
    (record,) = found.records
    assert (record.prompt, record.completion, record.engagement) == ("Up early?", "The cat.", 2.0)
    assert (record.cluster_id, found.notes) == ("thread:7", ("columns left alone: lang, likes",))
    with pytest.raises(DataError, match=r"e\.jsonl:1: .*'hearts'"):
        import_source(ExportSource(path=path))
    with pytest.raises(DataError, match=r"source\.columns names 'body', .*there are post"):
        import_source(ExportSource(path=path, columns={**columns, "completion": "body"}))
    for wrong, message in (
        ({"reply": "text"}, r"columns\.reply: .*known: prompt, completion"),
        ({"completion": "text", "prompt": "text"}, r"'text' .*two"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config(ExportSource, {"columns": wrong})


def test_export_with_impressions_has_log_odds(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "reply": f"r{at}", "likes": at, "impressions": 100 * at + 50} for at in range(4)]
    path = write(tmp_path / "e.jsonl", rows)
    estimated = estimated_prior([0, 1, 2, 3], [50, 150, 250, 350])
    given = BetaPriorSpec(rate=0.5, impressions=2)
    for spec, used in ((ExportSource(path=path), estimated), (ExportSource(path=path, prior=given), given)):
        found = import_source(spec)
        assert used.rate is not None and used.impressions is not None
        a, b = used.rate * used.impressions, (1 - used.rate) * used.impressions
        for record in found.records:
            at = int(record.completion[1:])
            assert record.engagement == pytest.approx(math.log((at + a) / (100 * at + 50 - at + b)))
            assert (record.clicks, record.impressions) == (at, 100 * at + 50)
    counts = import_records(ExportSource(path=path, scale="count"))
    assert sorted(r.engagement for r in counts) == [0, 1, 2, 3] and {r.clicks for r in counts} == {None}
    more = [{"prompt": "p", "reply": "r", "likes": 9, "impressions": 3}]
    for wrong, message in (
        ([*rows, {"prompt": "p", "reply": "r", "likes": 1}], r"e\.jsonl: 1 of 5 rows .*source\.scale=count"),
        (more, r"engagement 9 of 'r' .*impressions 3"),
    ):
        with pytest.raises(DataError, match=message):
            import_records(ExportSource(path=write(tmp_path / "e.jsonl", wrong)))


def test_estimated_prior_recovers_rate_and_weight() -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(500, 5000, 4000)
    clicks = rng.binomial(shown, rng.beta(0.02 * 400, 0.98 * 400, 4000))
    prior = estimated_prior(clicks.tolist(), shown.tolist())
    assert prior.rate == pytest.approx(0.02, rel=0.03)
    assert prior.impressions == pytest.approx(400, rel=0.1)
    assert (
        estimated_prior([2, 4, 6], [100, 200, 300]).impressions == 600
    )  # no spread: as much as there is data
    assert estimated_prior([100, 0], [100, 100]).impressions == 1  # as far apart as can be
    assert estimated_prior([0, 0], [10, 10]).rate == pytest.approx(0.5 / 21)
    for wrong, given, message in (([], [], "no row .*impressions"), ([2], [1], "0 <= clicks <= impressions")):
        with pytest.raises(ValueError, match=message):
            estimated_prior(wrong, given)


def test_import_keeps_ids_after_reactions_and_in_any_order(tmp_path: Path) -> None:
    rows = [*EXPORT, EXPORT[2], {**EXPORT[2], "likes": 5}]
    before = import_records(ExportSource(path=write(tmp_path / "e.jsonl", rows)))
    assert len({r.record_id for r in before}) == 5
    places = {r.completion: (r.position, r.age_s) for r in before}
    assert places == {
        "No.": (0, 0.0),
        "The cat is.": (1, 1800.0),
        "Tea.": (None, None),
    }  # 13:00+01:00 is 12:00Z
    for seed in range(5):
        shuffled = rows[:]
        random.Random(seed).shuffle(shuffled)
        assert import_records(ExportSource(path=write(tmp_path / "e.jsonl", shuffled))) == before
    liked = [{**EXPORT[0], "likes": 99}, *rows[1:]]
    after = import_records(ExportSource(path=write(tmp_path / "e.jsonl", liked)))
    assert {r.record_id for r in after} == {r.record_id for r in before}
    own = [{**row, "reply_id": f"00{at}"} for at, row in enumerate(rows)]
    named = import_records(ExportSource(path=write(tmp_path / "e.jsonl", own)))
    assert [r.record_id for r in named] == [f"export/00{at}" for at in range(5)]
    own[1]["reply_id"] = "000"
    with pytest.raises(DataError, match=r"e\.jsonl:2: reply_id '000' .*e\.jsonl:1"):
        import_records(ExportSource(path=write(tmp_path / "e.jsonl", own)))


def test_import_of_saved_data_sets_and_parquet_matches_jsonl(tmp_path: Path) -> None:
    import datasets

    rows = [{"prompt": r["prompt"], "reply": r["reply"], "likes": r["likes"]} for r in EXPORT]
    expected = import_records(ExportSource(path=write(tmp_path / "e.jsonl", rows), origin="hub"))
    found = datasets.Dataset.from_list(rows)
    found.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": found}).save_to_disk(str(tmp_path / "dict"))
    (tmp_path / "files").mkdir()
    found.to_parquet(str(tmp_path / "files" / "train.parquet"))
    for name in ("saved", "dict", "files"):
        assert import_records(HubSource(name=str(tmp_path / name))) == expected, name
    parquet = ExportSource(path=str(tmp_path / "files" / "train.parquet"), origin="hub")
    assert import_records(parquet) == expected
    with pytest.raises(ConfigError, match=r"source\.split='test': .*dict has train"):
        import_records(HubSource(name=str(tmp_path / "dict"), split="test"))


def test_import_of_an_unreachable_data_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"source\.name='polyray/none', split 'train' .*network"):
        import_records(HubSource(name="polyray/none"))


def test_import_of_curated_records_drops_their_parts(tmp_path: Path) -> None:
    records = import_records(ExportSource(path=write(tmp_path / "e.jsonl", EXPORT)))
    placed = [r.model_copy(update={"part": "train", "phase": "rl"}) for r in records]
    path = write(tmp_path / "r.jsonl", [r.model_dump() for r in placed])
    assert import_records(RecordsSource(path=path)) == records
    pairs = write(tmp_path / "p.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match=r"p\.jsonl: .*pairs"):
        import_records(RecordsSource(path=pairs))
