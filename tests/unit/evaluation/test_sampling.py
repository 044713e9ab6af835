from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import DataError, RewardError, RolloutError
from polyray.evaluation.arms import Arm
from polyray.evaluation.records import prompt_sha256, read_samples
from polyray.evaluation.sampling import EvaluationFiles, Sample, Sampling, evaluation_requests, sample_arms
from polyray.evaluation.scorers import Scored, Scorer
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.evaluation.summary import summary_table
from polyray.seeds import sample_seed
from polyray.types import Completion, Group, GroupRequest, PolicyVersion, Prompt

PROMPTS = [Prompt(f"p{i}", f"text {i}", cluster_id=f"c{i // 2}") for i in range(4)]
SPEC = EvaluationSpec(num_samples=2, ks=(1, 2), bootstrap_resamples=100)
ROLLOUT = RolloutSpec(max_completion_tokens=5, temperature=0.5)


def answer(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
    """Groups in reverse order; the model's name is its answer, the second sample says "no"."""
    for request in reversed(requests):
        logprobs = np.array([-0.5, -0.25], np.float32)
        tokens = np.array([3, 2], np.int32)
        completions = (
            Completion(tokens, logprobs, name, "stop", request.seeds[0]),
            Completion(tokens[:1], logprobs[:1], "no", "length", request.seeds[1]),
        )
        yield Group(
            request.group_id, request.prompt, np.zeros(2, np.int32), completions, PolicyVersion(1, 7, "ab")
        )


def judge(prompt: Prompt, texts: Sequence[str]) -> list[Scored]:
    """Tells by the task's own prompt, whatever the policy was asked."""
    assert prompt in PROMPTS
    return [
        Scored(math.nan, -1, "unscored", "no idea")
        if text == "broken"
        else Scored(float(text == "good"), 5 if text == "good" else -1)
        for text in texts
    ]


def arms(*names: str, adapters: Sequence[str] = ()) -> list[Arm]:
    return [
        Arm(name, "runs/x/adapter" if name in adapters else None, None, tuple(PROMPTS), None)
        for name in names
    ]


def sampling(sample: Sample = answer, **options: Any) -> Sampling:
    values: dict[str, Any] = {
        "prompts": PROMPTS,
        "spec": SPEC,
        "rollout": ROLLOUT,
        "seed": 4,
        "domain": "demo",
    }
    return Sampling(**(values | {"sample": sample, "scorer": judge} | options))


def scores(files: EvaluationFiles, models: Sequence[str]) -> dict[str, Any]:
    records = [record for record in read_samples(files.samples) if record.model in models]
    return score_samples(records, SPEC, ScoringContext(seed=4))


def test_requests_have_a_seed_for_each_sample() -> None:
    requests = evaluation_requests(PROMPTS, SPEC, ROLLOUT, seed=4)
    assert [request.group_id for request in requests] == [0, 1, 2, 3]
    assert requests[1].seeds == (sample_seed(4, "evaluation/p1", 0), sample_seed(4, "evaluation/p1", 1))
    assert (requests[0].max_completion_tokens, requests[0].temperature) == (5, 0.5)
    limited = evaluation_requests(PROMPTS[1:], SPEC, ROLLOUT, seed=4)
    assert [request.seeds for request in limited] == [request.seeds for request in requests[1:]]


def test_files_hold_each_sample_in_the_order_asked(tmp_path: Path) -> None:
    files, seen = EvaluationFiles(tmp_path), []
    options = {"progress": lambda *entry: seen.append(entry), "kept_text": lambda prompt, text: text[:5]}
    sample_arms(arms("base", "good", "broken", adapters=["good"]), sampling(**options), files)
    records = read_samples(files.samples)
    expected = [(m, f"p{i}", j) for m in ("base", "good", "broken") for i in range(4) for j in range(2)]
    assert [(r.model, r.task_id, r.sample_index) for r in records] == expected
    assert seen[:5] == [*(("base", done, 4) for done in (1, 2, 3, 4)), ("good", 1, 4)]
    first, last = records[0], records[14]
    assert (first.adapter_sha256, last.adapter_sha256, last.policy_version) == (None, "ab", 7)
    assert (last.reward, last.class_id, last.num_tokens, last.logprob) == (1.0, 5, 2, -0.75)
    seed = sample_seed(4, "evaluation/p3", 0)
    assert last.sampling == {"temperature": 0.5, "top_p": 1.0, "seed": seed, "max_tokens": 5}
    assert last.prompt_sha256 == prompt_sha256(PROMPTS[3])
    assert prompt_sha256(Prompt("p", "hello")) != prompt_sha256(
        Prompt("p", "hello", messages=({"role": "user", "content": "hello"},))
    )
    assert records[16].completion == "broke", "the part that a task says was judged"
    lines = [json.loads(line) for line in files.results.read_text().splitlines()]
    assert [(lines[at]["verdict"], lines[at]["passed"], lines[at]["message"]) for at in (8, 9, 16)] == [
        ("passed", True, ""),
        ("failed", False, "truncated"),
        ("unscored", False, "no idea"),
    ]
    metrics = scores(files, models=("base", "good"))
    assert metrics["models"]["good"]["pass_at_k"]["1"]["value"] == 0.5
    assert metrics["models"]["base"]["truncated_share"]["value"]["value"] == 0.5
    head, base, good, foot = summary_table(metrics).splitlines()
    assert head.split() == ["model", "pass@1", "pass@2", "distinct-correct@2", "USQ@2"]
    assert base.split()[:2] == ["base", "0.000"] and good.split()[:2] == ["good", "0.500"]
    assert foot == "4 prompts in 2 clusters, 2 samples each, 95 % intervals, selector logprob"
    del metrics["models"]["good"]["usq_at_k"]  # trained on the reward that picks
    assert summary_table(metrics).splitlines()[2].endswith("refused")


def unscored_until(number: int) -> Scorer:
    """Scores nothing before the prompt of this number."""

    def judge_late(prompt: Prompt, texts: Sequence[str]) -> list[Scored]:
        late = PROMPTS.index(prompt) >= number
        return judge(prompt, texts) if late else [Scored(math.nan, message="gone\nat a.py:2") for _ in texts]

    return judge_late


def test_reward_that_scores_nothing_ends_the_evaluation_before_a_write(tmp_path: Path) -> None:
    files = EvaluationFiles(tmp_path)
    with pytest.raises(RewardError, match=r"\b4 completions of good .*: gone\n") as found:
        sample_arms(arms("good"), sampling(scorer=unscored_until(2)), files)
    assert found.value.__notes__ == ["gone\nat a.py:2"]
    assert files.samples.read_bytes() == b""
    one = [replace(arm, asked_P=(PROMPTS[0],)) for arm in arms("good")]
    with pytest.raises(RewardError, match=r"\b2 completions"):
        sample_arms(one, sampling(prompts=PROMPTS[:1], scorer=unscored_until(1)), files)
    sample_arms(arms("good"), sampling(scorer=unscored_until(1)), files)
    assert [math.isnan(record.reward) for record in read_samples(files.samples)] == [True] * 2 + [False] * 6


def test_wording_of_an_arm_reaches_the_policy_alone(tmp_path: Path) -> None:
    seen: list[str] = []

    def listening(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        seen.extend(request.prompt.text for request in requests)
        yield from answer(name, directory, requests)

    worded = tuple(replace(prompt, text=f"please: {prompt.text}") for prompt in PROMPTS)
    sample_arms([Arm("good", None, "polite", worded, None)], sampling(listening), EvaluationFiles(tmp_path))
    record = read_samples(tmp_path / "samples.jsonl")[0]
    assert seen[0] == "please: text 0"
    assert (record.prompt, record.sampling["prompt"]) == ("text 0", "polite")
    assert record.prompt_sha256 == prompt_sha256(PROMPTS[0])


def test_missing_group_is_an_error_and_finished_groups_stay(tmp_path: Path) -> None:
    def lossy(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        yield from (group for group in answer(name, directory, requests) if group.group_id != 2)

    files = EvaluationFiles(tmp_path)
    with pytest.raises(RolloutError, match=r"good: .*\b2 of 4 groups.*\bp2\b"):
        sample_arms(arms("good"), sampling(lossy), files)
    assert [record.task_id for record in read_samples(files.samples)] == ["p0", "p0", "p1", "p1"]


@pytest.mark.parametrize("died_after", [*range(8), None])
def test_killed_evaluation_samples_what_is_missing_and_ends_with_the_same_bytes(
    tmp_path: Path, died_after: int | None
) -> None:
    whole, killed = EvaluationFiles(tmp_path / "whole"), EvaluationFiles(tmp_path / "killed")
    sample_arms(arms("base", "good"), sampling(), whole)
    arrived: list[int] = []

    def dying(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        for group in answer(name, directory, requests[::-1]):
            if len(arrived) == died_after:
                raise InterruptedError
            arrived.append(group.group_id)
            yield group

    with pytest.raises(InterruptedError) if died_after is not None else nullcontext():
        sample_arms(arms("base", "good"), sampling(dying), killed)
    asked: list[int] = []

    def counting(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        asked.extend(request.group_id for request in requests)
        yield from answer(name, directory, requests)

    # The group whose arrival was followed by the kill may not have been written: at most that one comes again.
    sample_arms(arms("base", "good"), sampling(counting), killed)
    missing = 0 if died_after is None else 8 - died_after
    assert missing <= len(asked) <= (missing + 1 if died_after else missing)
    assert killed.samples.read_bytes() == whole.samples.read_bytes()
    assert killed.results.read_bytes() == whole.results.read_bytes()


def test_files_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    files = EvaluationFiles(tmp_path)
    sample_arms(arms("good"), sampling(), files)
    with pytest.raises(DataError, match=r"'p3'.*'good'.*'p3'.*'better'"):
        sample_arms(arms("better"), sampling(), files)
    with pytest.raises(DataError, match=r"'p3'.*'good'.*'p1'.*'second'"):
        sample_arms(arms("good", "second"), sampling(prompts=PROMPTS[:2]), files)


def test_groups_are_scored_while_others_are_sampled(tmp_path: Path) -> None:
    """The first group's scorer returns only when the last group is being sampled."""
    last_is_sampled = threading.Event()

    def waiting(prompt: Prompt, texts: Sequence[str]) -> list[Scored]:
        assert prompt != PROMPTS[0] or last_is_sampled.wait(timeout=30)
        return judge(prompt, texts)

    def in_order(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        for group in reversed(list(answer(name, directory, requests))):
            if group.group_id == 3:
                last_is_sampled.set()
            yield group

    files = EvaluationFiles(tmp_path)
    sample_arms(arms("good"), sampling(in_order, scorer=waiting), files)
    assert [record.task_id for record in read_samples(files.samples)[::2]] == ["p0", "p1", "p2", "p3"]


def test_answers_of_one_completion_become_the_samples_of_the_prompt(tmp_path: Path) -> None:
    asked: list[GroupRequest] = []

    def listed(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        for request in requests:
            asked.append(request)
            text = "Sure:\n1. good\n2) bad" if request.group_id else "good"
            tokens, logprobs = np.arange(5, dtype=np.int32), np.full(5, -0.5, np.float32)
            completions = (Completion(tokens, logprobs, text, "stop", request.seeds[0]),)
            yield Group(
                request.group_id,
                request.prompt,
                np.zeros(2, np.int32),
                completions,
                PolicyVersion(1, 7, "ab"),
            )

    files = EvaluationFiles(tmp_path)
    arm = Arm("list", None, "verbalised", tuple(PROMPTS), None, answers=2)
    sample_arms([arm], sampling(listed), files)
    assert [len(request.seeds) for request in asked] == [1] * 4
    assert asked[1].seeds == (sample_seed(4, "evaluation/p1", 0),)
    records = read_samples(files.samples)
    assert [record.completion for record in records] == ["good", "", *["good", "bad"] * 3]
    assert [record.num_tokens for record in records[:2]] == [3, 2]
    assert all(math.isnan(record.logprob) for record in records)
