from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.evaluation.records import read_samples
from polyray.evaluation.sampling import EvaluationFiles, evaluate_models, evaluation_requests, prompt_sha256
from polyray.evaluation.scoring import score_samples
from polyray.evaluation.summary import summary_table
from polyray.rollout.seeds import sample_seed
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


def judge(prompt: Prompt, texts: Sequence[str]) -> tuple[list[float], list[int]]:
    return [float(text == "good") if text != "broken" else float("nan") for text in texts], [
        5 if text == "good" else -1 for text in texts
    ]


def run(tmp_path: Path, adapters: dict[str, str | None], **options: object) -> tuple[dict, EvaluationFiles]:
    files = EvaluationFiles(tmp_path / "evaluation")
    requests = evaluation_requests(PROMPTS, SPEC, ROLLOUT, seed=4)
    metrics = evaluate_models(
        adapters,
        requests,
        sample=answer,
        score=judge,
        files=files,
        spec=SPEC,
        seed=4,
        domain="demo",
        **options,  # type: ignore[arg-type]
    )
    return metrics, files


def test_requests_have_their_own_seeds_per_sample() -> None:
    requests = evaluation_requests(PROMPTS, SPEC, ROLLOUT, seed=4)
    assert [request.group_id for request in requests] == [0, 1, 2, 3]
    assert requests[1].seeds == (sample_seed(4, "evaluation/p1", 0), sample_seed(4, "evaluation/p1", 1))
    assert (requests[0].max_completion_tokens, requests[0].temperature) == (5, 0.5)
    limited = evaluation_requests(
        PROMPTS, EvaluationSpec(num_samples=2, ks=(1,), num_prompts=3), ROLLOUT, seed=4
    )
    assert [request.seeds for request in limited] == [request.seeds for request in requests[:3]]


def test_files_hold_every_sample_in_the_order_asked(tmp_path: Path) -> None:
    metrics, files = run(tmp_path, {"base": None, "good": "runs/x/adapter"})
    records = read_samples(files.samples)
    expected = [(m, f"p{i}", j) for m in ("base", "good") for i in range(4) for j in range(2)]
    assert [(r.model, r.task_id, r.sample_index) for r in records] == expected
    first, last = records[0], records[-2]
    assert (first.adapter_sha256, last.adapter_sha256, last.policy_version) == (None, "ab", 7)
    assert (last.reward, last.class_id, last.num_tokens, last.logprob) == (1.0, 5, 2, -0.75)
    assert last.sampling == {
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": sample_seed(4, "evaluation/p3", 0),
        "max_tokens": 5,
    }
    assert last.prompt_sha256 == prompt_sha256(PROMPTS[3])
    assert metrics["models"]["good"]["pass_at_k"]["1"]["value"] == 0.5
    assert metrics["models"]["base"]["truncated_share"]["value"]["value"] == 0.5
    assert json.loads(files.metrics.read_text()) == metrics
    assert score_samples(records, SPEC, seed=4) == metrics


def test_results_say_passed_failed_or_unscored(tmp_path: Path) -> None:
    spec = EvaluationSpec(num_samples=2, ks=(1,), bootstrap_resamples=100)
    files = EvaluationFiles(tmp_path)
    evaluate_models(
        {"good": None, "broken": None},
        evaluation_requests(PROMPTS, spec, ROLLOUT, 0),
        sample=answer,
        score=judge,
        files=files,
        spec=spec,
        seed=0,
        domain="demo",
    )
    lines = [json.loads(line) for line in files.results.read_text().splitlines()]
    assert [(line["verdict"], line["passed"]) for line in (lines[0], lines[1], lines[8])] == [
        ("passed", True), ("failed", False), ("unscored", False),
    ]  # fmt: skip
    assert lines[1]["message"] == "truncated" and lines[0]["isolation"] == "none"


def test_progress_counts_groups(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run(tmp_path, {"good": None}, progress=lambda *entry: seen.append(entry))
    assert seen == [("good", done, 4) for done in (1, 2, 3, 4)]


def test_missing_groups_are_an_error_and_leave_no_file(tmp_path: Path) -> None:
    def lossy(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        yield from (group for group in answer(name, directory, requests) if group.group_id != 2)

    files = EvaluationFiles(tmp_path)
    with pytest.raises(
        RolloutError, match=r"good: sampling ended with 2 of 4 groups missing, the first is p2"
    ):
        evaluate_models(
            {"good": None},
            evaluation_requests(PROMPTS, SPEC, ROLLOUT, 0),
            sample=lossy,
            score=judge,
            files=files,
            spec=SPEC,
            seed=0,
            domain="demo",
        )
    assert list(tmp_path.iterdir()) == []


def test_chat_prompts_are_hashed_by_their_messages() -> None:
    plain = Prompt("p", "hello")
    chat = Prompt(
        "p", "hello", messages=({"role": "system", "content": "x"}, {"role": "user", "content": "hello"})
    )
    assert len({prompt_sha256(plain), prompt_sha256(chat)}) == 2


def test_summary_has_a_line_per_model(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path, {"base": None, "good": "runs/x/adapter"})
    head, base, good, foot = summary_table(metrics).splitlines()
    assert head.split() == ["model", "pass@1", "pass@2", "distinct-correct@2", "USQ@2"]
    assert base.startswith("base   0.000 [0.000, 0.000]") and good.startswith(
        "good   0.500 [0.500, 0.500]  1.000 ["
    )
    assert foot == "4 prompts in 2 clusters, 2 samples each, 95 % intervals, selector logprob"
