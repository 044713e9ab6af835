"""Raw files become records: ids, clusters, times and engagement, the same in any order of the rows."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter, defaultdict
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
from tests.data_sets import shared_data

THREAD: dict[str, Any] = {
    "id": "q1",
    "title": "Sources?",
    "text": "Should we cite?",
    "created": "2011-10-11T00:00:00",
    "url": "https://history.example/q/1",
    "license": "CC BY-SA 3.0",
    "replies": [
        {
            "id": "a2",
            "kind": "answer",
            "parent": "q1",
            "text": "Yes.",
            "score": 5,
            "created": "2011-10-11T00:02:00",
        },
        {
            "id": "a3",
            "kind": "answer",
            "parent": "q1",
            "text": "No.",
            "score": -1,
            "created": "2011-10-11T00:01:00",
        },
        {
            "id": "c4",
            "kind": "comment",
            "parent": "a2",
            "text": "Why?",
            "score": 0,
            "created": "2011-10-11T00:02:30",
        },
    ],
}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_threads(tmp_path: Path) -> None:
    path = write(tmp_path / "threads.jsonl", [THREAD])
    yes, no, why = import_records(StackExchangeSource(path=path))
    assert yes.record_id == "history.example/q1/a2"
    assert yes.prompt == "Sources?\n\nShould we cite?"
    assert why.prompt == "Sources?\n\nYes."
    assert yes.prompt_id == no.prompt_id == "history.example/q1/q1/answer"
    assert why.prompt_id == "history.example/q1/a2/comment"
    assert {r.cluster_id for r in (yes, no, why)} == {"thread:history.example/q1"}
    assert [(r.engagement, r.position, r.age_s) for r in (yes, no, why)] == [
        (5, 1, 120),
        (-1, 0, 60),
        (0, 0, 30),
    ]
    assert (yes.licence, yes.url, yes.kind) == ("CC BY-SA 3.0", "https://history.example/q/1", "answer")
    only = import_source(StackExchangeSource(path=path, kind="comment"))
    assert [r.record_id for r in only.records] == ["history.example/q1/c4"]
    assert (only.num_rows, only.left_out) == (3, {"replies of another kind than comment": 2})


def test_threads_with_one_prompt_are_one_cluster(tmp_path: Path) -> None:
    def thread(number: int, title: str) -> dict[str, Any]:
        reply = {**THREAD["replies"][0], "parent": f"q{number}"}
        url = f"https://history.example/q/{number}"
        return {**THREAD, "id": f"q{number}", "url": url, "title": title, "replies": [reply]}

    other, alone = thread(9, "sources"), thread(0, "Dates?")
    records = import_records(StackExchangeSource(path=write(tmp_path / "t.jsonl", [other, THREAD, alone])))
    clusters = {r.record_id.split("/")[1]: r.cluster_id for r in records}
    assert clusters == {
        "q0": "thread:history.example/q0",
        "q1": "thread:history.example/q1",
        "q9": "thread:history.example/q1",
    }


def package(
    test: str, headline: str, shown: int, clicks: int, image: str = "i1", **more: Any
) -> dict[str, Any]:
    return {
        "test_id": test,
        "headline": headline,
        "impressions": shown,
        "clicks": clicks,
        "image_id": image,
        "lede": f"Story of {test}.",
        **more,
    }


def test_headline_tests(tmp_path: Path) -> None:
    rows = [
        package("t1", "Bees!", 1000, 30),
        package("t1", "Bees!", 1000, 10, excerpt="Own."),
        package("t1", "Bees!", 500, 5, image="i2"),
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


def test_an_export(tmp_path: Path) -> None:
    records = import_records(ExportSource(path=write(tmp_path / "e.jsonl", EXPORT), origin="mine"))
    by_text = {r.completion: r for r in records}
    cat, no, tea = by_text["The cat is."], by_text["No."], by_text["Tea."]
    assert (cat.engagement, cat.impressions, cat.origin) == (12.0, None, "mine")
    assert cat.prompt_id == no.prompt_id != tea.prompt_id
    assert (no.position, no.age_s, cat.position, cat.age_s) == (0, 0.0, 1, 1800.0)  # 13:00+01:00 is 12:00Z
    assert (tea.position, tea.age_s) == (None, None)


def test_columns_with_other_names_are_mapped(tmp_path: Path) -> None:
    rows = [{"post": "Up early?", "text": "The cat.", "hearts": 2, "post_id": 7, "lang": "en", "likes": 99}]
    columns = {"prompt": "post", "completion": "text", "engagement": "hearts", "thread_id": "post_id"}
    found = import_source(ExportSource(path=write(tmp_path / "e.jsonl", rows), columns=columns))
    (record,) = found.records
    assert (record.prompt, record.completion, record.engagement) == ("Up early?", "The cat.", 2.0)
    assert record.cluster_id == "thread:7"
    assert found.notes == ("columns left alone: lang, likes",)
    with pytest.raises(DataError, match=r"e\.jsonl:1: .*'hearts'"):
        import_source(ExportSource(path=str(tmp_path / "e.jsonl")))
    with pytest.raises(
        DataError, match=r"source\.columns names 'body', which is not a column; there are post"
    ):
        import_source(ExportSource(path=str(tmp_path / "e.jsonl"), columns={**columns, "completion": "body"}))
    with pytest.raises(ConfigError, match=r"columns\.reply: .*known: prompt, completion"):
        build_config(ExportSource, {"columns": {"reply": "text"}})
    with pytest.raises(ConfigError, match=r"'text' .*two"):
        build_config(ExportSource, {"columns": {"completion": "text", "prompt": "text"}})


def test_impressions_make_log_odds(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "reply": f"r{at}", "likes": at, "impressions": 100 * at + 50} for at in range(4)]
    path = write(tmp_path / "e.jsonl", rows)
    prior = estimated_prior([0, 1, 2, 3], [50, 150, 250, 350])
    found = import_source(ExportSource(path=path))
    for record in found.records:
        at = int(record.completion[1:])
        a, b = prior.rate * prior.impressions, (1 - prior.rate) * prior.impressions
        assert record.engagement == pytest.approx(math.log((at + a) / (100 * at + 50 - at + b)))
        assert (record.clicks, record.impressions) == (at, 100 * at + 50)
    assert "Beta prior" in found.notes[0]
    given = ExportSource(path=path, prior=BetaPriorSpec(rate=0.5, impressions=2))
    assert {round(math.exp(r.engagement), 6) for r in import_records(given)} == {
        round((at + 1) / (100 * at + 50 - at + 1), 6) for at in range(4)
    }
    counts = import_records(ExportSource(path=path, scale="count"))
    assert sorted(r.engagement for r in counts) == [0, 1, 2, 3] and {r.clicks for r in counts} == {None}
    mixed = write(tmp_path / "m.jsonl", [*rows, {"prompt": "p", "reply": "r", "likes": 1}])
    with pytest.raises(DataError, match=r"m\.jsonl: 1 of 5 rows .*source\.scale=count"):
        import_records(ExportSource(path=mixed))
    more = write(tmp_path / "x.jsonl", [{"prompt": "p", "reply": "r", "likes": 9, "impressions": 3}])
    with pytest.raises(DataError, match=r"engagement 9 of 'r' .*impressions 3"):
        import_records(ExportSource(path=more))


def test_the_prior_is_found_again() -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(500, 5000, 4000)
    clicks = rng.binomial(shown, rng.beta(0.02 * 400, 0.98 * 400, 4000))
    prior = estimated_prior(clicks.tolist(), shown.tolist())
    assert prior.rate == pytest.approx(0.02, rel=0.03)
    assert prior.impressions == pytest.approx(400, rel=0.1)


def test_the_prior_at_its_ends() -> None:
    same = estimated_prior([2, 4, 6], [100, 200, 300])  # no spread at all: as much weight as there is data
    assert same.impressions == 600
    assert estimated_prior([0, 0], [10, 10]).rate == pytest.approx(0.5 / 21)
    assert 0 < estimated_prior([5], [5]).rate < 1
    apart = estimated_prior([100, 0], [100, 100])  # as far apart as can be: hardly any weight
    assert apart.impressions == 1
    for clicks, shown in (([], []), ([0], [0])):
        with pytest.raises(ValueError, match=r"no row .*impressions"):
            estimated_prior(clicks, shown)
    with pytest.raises(ValueError, match="0 <= clicks <= impressions"):
        estimated_prior([2], [1])


def test_ids_stay_when_people_react_and_in_any_order(tmp_path: Path) -> None:
    rows = [*EXPORT, EXPORT[2], {**EXPORT[2], "likes": 5}]
    before = import_records(ExportSource(path=write(tmp_path / "e.jsonl", rows)))
    assert len({r.record_id for r in before}) == 5
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


def test_a_data_set_saved_by_datasets_and_a_parquet_file_give_the_same(tmp_path: Path) -> None:
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


def test_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"source\.name='polyray/none', split 'train' .*network"):
        import_records(HubSource(name="polyray/none"))


def test_records_of_an_earlier_run(tmp_path: Path) -> None:
    records = import_records(ExportSource(path=write(tmp_path / "e.jsonl", EXPORT)))
    placed = [r.model_copy(update={"part": "train", "phase": "rl"}) for r in records]
    path = write(tmp_path / "r.jsonl", [r.model_dump() for r in placed])
    assert import_records(RecordsSource(path=path)) == records
    pairs = write(tmp_path / "p.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match=r"p\.jsonl: .*pairs"):
        import_records(RecordsSource(path=pairs))


@pytest.mark.parametrize("spec", [StackExchangeSource(), UpworthySource(), ExportSource()])
def test_the_builtin_sets(spec: StackExchangeSource | UpworthySource | ExportSource) -> None:
    records = import_records(spec)
    assert len(records) == 36
    assert len({r.cluster_id for r in records}) == 12
    assert {r.licence for r in records} == {"Apache-2.0"}


def test_history_meta_threads() -> None:
    path = shared_data("social/history_meta_se_threads.jsonl.gz")
    records = import_records(StackExchangeSource(path=str(path)))
    assert len(records) == 6635
    assert Counter(r.kind for r in records) == {"comment": 5176, "answer": 1459}
    assert all(r.age_s is not None and r.position is not None and r.url and r.licence for r in records)


def test_upworthy_archive() -> None:
    path = shared_data("social/upworthy_exploratory.jsonl.gz")
    found = import_source(UpworthySource(path=str(path)))
    assert (found.num_rows, len(found.records), sum(found.left_out.values())) == (22666, 15377, 22666 - 15377)
    cluster_of = {record.record_id.split("/")[0]: record.cluster_id for record in found.records}
    sharing: dict[str, set[str]] = defaultdict(set)
    for line in gzip.decompress(path.read_bytes()).splitlines():
        row = json.loads(line)
        if row["test_id"] in cluster_of:
            for text in (row["lede"], row["headline"]):
                if text:
                    sharing[text].add(cluster_of[row["test_id"]])
    assert all(len(clusters) == 1 for clusters in sharing.values())
    clicked = sum(r.clicks or 0 for r in found.records) / sum(r.impressions or 0 for r in found.records)
    assert clicked == pytest.approx(0.0131, abs=2e-4)
    order = sorted(found.records, key=lambda r: r.engagement)
    top, bottom = order[-1000:], order[:1000]
    assert sum(r.clicks or 0 for r in top) > 5 * sum(r.clicks or 0 for r in bottom)
