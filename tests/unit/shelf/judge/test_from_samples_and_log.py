"""Items from samples, and judgements.jsonl taken up where it ended."""

from __future__ import annotations

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


RECORDS = [sample(task, model, at) for model in ("base", "new") for task in ("t1", "t2") for at in (1, 0)]


def test_pair_items_put_equal_sample_numbers_together() -> None:
    chosen = select_samples(RECORDS, None, None)
    items = list(pair_items(chosen, "base", 2))
    assert [item.item_id for item in items] == [f"t{t}|new:{at}|base:{at}" for t in (1, 2) for at in (0, 1)]
    assert items[1].first == Candidate("new t1 1", "new", 1)
    assert items[1].second == Candidate("base t1 1", "base", 1)
    assert (items[2].prompt, items[2].cluster_id, items[2].task_id) == ("do t2", "ct2", "t2")
    assert [item.first.model for item in pair_items(chosen, "new")] == ["base", "base"]


def test_rubric_and_cluster_items_have_the_samples_of_a_prompt() -> None:
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
def test_select_samples_refuses_samples_that_cannot_be_judged(
    records: list[SampleRecord], models: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        select_samples(records, models, None)


def test_items_need_a_baseline_two_models_and_enough_samples() -> None:
    chosen = select_samples(RECORDS, None, None)
    many = select_samples([sample("t", "base", index) for index in range(65)], None, None)
    for items, message in (
        (pair_items(chosen, "x"), r"compare_to='x' .*base, new"),
        (pair_items(select_samples(RECORDS, ["base"], None), "base"), "two models"),
        (rubric_items(chosen, 3), r"t1 .*2 samples of base.*samples_per_prompt=3"),
        (cluster_items(many), r"65 samples of base.* 64"),
    ):
        with pytest.raises(DataError, match=message):
            list(items)


STORY = '{"model": "h", "text": "t", "human_ratings_mean": {"wit": %s}}'
RATED = '{"id": 0, "prompt": "p", "stories": [%s]}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RATED % (STORY % 2) + "{", r"rated\.jsonl:2 "),
        (RATED % (STORY % 2) + '{"id": 1, "prompt": "p"}', ":2 .*KeyError: 'stories'"),
        ('{"id": 1, "prompt": "p", "stories": 3}', ":1 .*stories"),
        (RATED % (STORY % '"x"'), ":1 "),
        (RATED % "", "human_ratings_mean"),
    ],
)
def test_rated_texts_name_a_broken_file(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rated.jsonl"
    path.write_text(RATED % (STORY % 2))
    (text,) = read_rated_texts(path)
    assert (text.item.item_id, text.ratings) == ("0|rated/h:0", {"wit": 2.0})
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_rated_texts(path)


ITEMS = [RubricItem(f"i{n}", f"t{n}", "p", f"t{n}", Candidate(f"text {n}", "m", n)) for n in range(5)]


def judgement(item: RubricItem, reason: str | None = None) -> Judgement:
    asked = request_sha256(SPEC, ChatRequest(rubric_question(item, SPEC)))
    result = {} if reason else {"scores": {"relevance": 3}, "quality": 0.5, "reasoning": ["é"]}
    return Judgement(
        item.item_id, "rubric", item.task_id, item.cluster_id, ("m",), (item.candidate.sample_index,),
        "unjudged" if reason else "judged", reason, result, Usage(1, 100, 40, 10, 0.1), () if reason else (asked,),
        SPEC.name,
    )  # fmt: skip


def write(path: Path, rows: list[Judgement]) -> bytes:
    with JudgementLog(path) as log:
        for row in rows:
            log.append(row)
    return path.read_bytes()


def missing(log: JudgementLog, number: int) -> list[str]:
    return [item.item_id for item in log.missing(ITEMS[:number], "rubric", SPEC)]


def test_judgement_log_reads_rows_back_and_asks_for_the_missing_items(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    rows = [judgement(item) for item in ITEMS[:3]]
    whole = write(path, rows)
    assert read_judgements(path) == rows
    with JudgementLog(path) as log:
        assert log.kept == rows
        assert missing(log, 5) == ["i3", "i4"]
    path.write_bytes(whole[:-7])  # a torn row
    with JudgementLog(path) as log:
        assert missing(log, 3) == ["i2"]
        log.append(rows[2])
    assert path.read_bytes() == whole
    path.write_text('{"item_id": "x"}\n')
    with pytest.raises(DataError, match=r"j\.jsonl:1 "):
        read_judgements(path)


def test_judgement_log_is_written_again_from_its_first_unanswered_row(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    reasons = ("refused: too long", "no answer: x", None)
    write(path, [judgement(item, reason) for item, reason in zip(ITEMS[:3], reasons, strict=True)])
    with JudgementLog(path) as log:
        assert missing(log, 3) == ["i1", "i2"]
        assert [row.item_id for row in read_judgements(path)] == ["i0"]


@pytest.mark.parametrize(
    ("items", "model"),
    [([ITEMS[0], replace(ITEMS[1], item_id="z")], "m"), (ITEMS[:2], "another"), (ITEMS[:1], "m")],
)
def test_judgement_log_of_other_items_or_judges_is_not_overwritten(
    items: list[RubricItem], model: str, tmp_path: Path
) -> None:
    path = tmp_path / "j.jsonl"
    content = write(path, [judgement(item) for item in ITEMS[:2]])
    spec = SPEC.model_copy(update={"model": model})
    with JudgementLog(path) as log, pytest.raises(ConfigError, match=r"j\.jsonl.*name="):
        list(log.missing(items, "rubric", spec))
    assert path.read_bytes() == content
