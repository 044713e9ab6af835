"""Items from samples, and judgements.jsonl taken up where it ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from polyray.config.judge import JudgeSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import SampleRecord
from polyray.shelf.judge.cache import request_sha256
from polyray.shelf.judge.from_samples import (
    cluster_items,
    pair_items,
    read_rated_texts,
    rubric_items,
    select_samples,
)
from polyray.shelf.judge.items import Candidate, Judgement, RubricItem, Usage
from polyray.shelf.judge.log import JudgementLog, read_judgements
from polyray.shelf.judge.providers import ChatRequest
from polyray.shelf.judge.questions import rubric_question

SPEC = JudgeSpec(provider="openai", model="m")


def sample(task: str, model: str, index: int, **changes: str) -> SampleRecord:
    text = f"{model} {task} {index}"
    record = SampleRecord(task, text, index, model=model, prompt=f"do {task}", cluster_id=f"c{task}")
    return replace(record, **changes) if changes else record


RECORDS = [
    sample(task, model, index) for model in ("base", "new") for task in ("t1", "t2") for index in (1, 0)
]


def test_pairs_put_equal_sample_numbers_of_model_and_baseline_together() -> None:
    chosen = select_samples(RECORDS, None, None)
    items = list(pair_items(chosen, "base", 2))
    assert [item.item_id for item in items] == [
        "t1|new:0|base:0", "t1|new:1|base:1", "t2|new:0|base:0", "t2|new:1|base:1",
    ]  # fmt: skip
    assert items[1].first == Candidate("new t1 1", "new", 1)
    assert items[1].second == Candidate("base t1 1", "base", 1)
    assert (items[2].prompt, items[2].cluster_id, items[2].task_id) == ("do t2", "ct2", "t2")
    assert [item.first.model for item in pair_items(chosen, "new")] == ["base", "base"]


def test_rubric_and_cluster_items() -> None:
    chosen = select_samples(RECORDS, ["new"], 1)
    assert [item.item_id for item in rubric_items(chosen)] == ["t1|new:0"]
    (group,) = cluster_items(chosen)
    assert (group.item_id, [member.sample_index for member in group.members]) == ("t1|new", [0, 1])
    assert [len(item.members) for item in cluster_items(select_samples(RECORDS, None, None), 1)] == [1] * 4


@pytest.mark.parametrize(
    ("records", "models", "message"),
    [
        (RECORDS, ["gone"], "'gone'.* base, new"),
        ([*RECORDS, sample("t3", "new", 0)], None, "1 differ.* t3"),
        ([sample("t1", "base", 0, prompt="")], None, "t1 .*`prompt`"),
        ([*RECORDS, RECORDS[0]], None, r"sample 1 of t1 \(base\) .*twice"),
    ],
)
def test_samples_that_cannot_be_judged(
    records: list[SampleRecord], models: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        select_samples(records, models, None)


def test_items_need_a_baseline_two_models_and_enough_samples() -> None:
    chosen = select_samples(RECORDS, None, None)
    with pytest.raises(DataError, match=r"compare_to='x' .*base, new"):
        list(pair_items(chosen, "x"))
    with pytest.raises(DataError, match="two models"):
        list(pair_items(select_samples(RECORDS, ["base"], None), "base"))
    with pytest.raises(DataError, match=r"t1 .*2 samples of base.*samples_per_prompt=3"):
        list(rubric_items(chosen, 3))
    many = [sample("t", "base", index) for index in range(65)]
    with pytest.raises(DataError, match=r"65 samples of base.* 64"):
        list(cluster_items(select_samples(many, None, None)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rated\.jsonl:2 "),
        ('{"id": 1, "prompt": "p"}', ":2 .*KeyError: 'stories'"),
        ('{"id": 1, "prompt": "p", "stories": 3}', ":2 .*stories"),
        (
            '{"id": 1, "prompt": "p", "stories": [{"model": "h", "text": "t", "human_ratings_mean": {"a": "x"}}]}',
            ":2 ",
        ),
    ],
)
def test_broken_file_of_ratings_is_named(line: str, message: str, tmp_path: Path) -> None:
    good = {
        "id": 0,
        "prompt": "p",
        "stories": [{"model": "h", "text": "t", "human_ratings_mean": {"wit": 2}}],
    }
    path = tmp_path / "rated.jsonl"
    path.write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_rated_texts(path)
    path.write_text(json.dumps(good))
    (text,) = read_rated_texts(path)
    assert (text.item.item_id, text.ratings) == ("0|rated/h:0", {"wit": 2.0})
    path.write_text('{"id": 0, "prompt": "p", "stories": []}')
    with pytest.raises(DataError, match="human_ratings_mean"):
        read_rated_texts(path)


def items(count: int) -> list[RubricItem]:
    return [RubricItem(f"i{n}", f"t{n}", "p", f"t{n}", Candidate(f"text {n}", "m", n)) for n in range(count)]


def judgement(item: RubricItem, reason: str | None = None) -> Judgement:
    asked = request_sha256(SPEC, ChatRequest(rubric_question(item, SPEC)))
    result = {} if reason else {"scores": {"relevance": 3}, "quality": 0.5, "reasoning": ["é"]}
    requests = () if reason else (asked,)
    return Judgement(
        item.item_id, "rubric", item.task_id, item.cluster_id, ("m",), (item.candidate.sample_index,),
        "unjudged" if reason else "judged", reason, result, Usage(1, 100, 40, 10, 0.1), requests, SPEC.name,
    )  # fmt: skip


def write(path: Path, rows: list[Judgement]) -> bytes:
    with JudgementLog(path) as log:
        for row in rows:
            log.append(row)
    return path.read_bytes()


def test_rows_come_back_and_only_the_missing_items_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    rows = [judgement(item) for item in items(3)]
    write(path, rows)
    assert read_judgements(path) == rows
    with JudgementLog(path) as log:
        assert log.kept == rows
        assert [item.item_id for item in log.missing(items(5), "rubric", SPEC)] == ["i3", "i4"]


def test_a_torn_row_is_asked_again(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.jsonl", [judgement(item) for item in items(2)])
    path = tmp_path / "j.jsonl"
    path.write_bytes(whole[:-7])
    with JudgementLog(path) as log:
        assert [item.item_id for item in log.missing(items(2), "rubric", SPEC)] == ["i1"]
        log.append(judgement(items(2)[1]))
    assert path.read_bytes() == whole


def test_log_is_written_again_from_its_first_unanswered_row(tmp_path: Path) -> None:
    first, second, third = items(3)
    path = tmp_path / "j.jsonl"
    write(path, [judgement(first, "refused: too long"), judgement(second, "no answer: x"), judgement(third)])
    with JudgementLog(path) as log:
        assert [item.item_id for item in log.missing(items(3), "rubric", SPEC)] == ["i1", "i2"]
        assert [row.item_id for row in read_judgements(path)] == ["i0"]


@pytest.mark.parametrize("what", ["items", "judge", "fewer"])
def test_rows_about_something_else_are_not_overwritten(what: str, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    content = write(path, [judgement(item) for item in items(2)])
    spec = SPEC.model_copy(update={"model": "another"}) if what == "judge" else SPEC
    now = {"items": [items(1)[0], replace(items(2)[1], item_id="z")], "judge": items(2), "fewer": items(1)}[
        what
    ]
    with JudgementLog(path) as log, pytest.raises(ConfigError, match=r"j\.jsonl.*name="):
        list(log.missing(now, "rubric", spec))
    assert path.read_bytes() == content


def test_a_line_that_is_no_judgement_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"item_id": "x"}\n')
    with pytest.raises(DataError, match=r"j\.jsonl:1 "):
        read_judgements(path)
