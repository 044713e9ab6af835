"""A whole evaluation without engines: arms, checker, judge, files; killed and taken up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig
from polyray.errors import BudgetReached, ConfigError
from polyray.evaluation.pipeline import run_evaluation
from polyray.evaluation.sampling import EvaluationPaths, Sample
from polyray.types import Completion, Group, GroupRequest, PolicyVersion
from tests.unit.shelf.judge.judge_server import Asked, JudgeServer, prefers_longer

NUM_PROMPTS, NUM_SAMPLES = 6, 3
JUDGE = {"provider": "openai", "model": "m"}


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    for name, start in (("train", 0), ("test", 100)):
        numbers = range(start, start + NUM_PROMPTS)
        rows = [
            {"prompt": f"say {n}:", "reference": f"number {n}", "response": f"number {n}"} for n in numbers
        ]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    return {"type": "jsonl", "path": f"{tmp_path}/train.jsonl", "held_out_path": f"{tmp_path}/test.jsonl"}


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def config(task: dict[str, Any], **changes: Any) -> EvaluateConfig:
    evaluation = {"num_samples": NUM_SAMPLES, "ks": [1, 2], "selector": "first", "bootstrap_resamples": 100}
    evaluation |= changes.pop("evaluation", {})
    values = {"name": "e", "task": task, "adapters": {"short": None, "long": None}, "evaluation": evaluation}
    return build_config(EvaluateConfig, values | changes)


def paths(directory: Path) -> EvaluationPaths:
    return EvaluationPaths(directory / "evaluation", directory / "judge")


def speak(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
    """`short` knows one word, `long` knows the reference; sample i repeats it i times."""
    for request in requests[::-1]:
        number = request.prompt.text.rpartition("say ")[2].rstrip(":")
        word = number if name == "short" else f"number {number}"
        texts = [" ".join([word] * (i + 1)) for i in range(len(request.seeds))]
        tokens, logprobs = np.zeros(2, np.int32), np.zeros(2, np.float32)
        completions = tuple(
            Completion(tokens, logprobs, text, "stop", seed)
            for text, seed in zip(texts, request.seeds, strict=True)
        )
        policy = PolicyVersion(0, 0, "a")
        yield Group(request.group_id, request.prompt, np.zeros(1, np.int32), completions, policy)


def dying_after(groups: int) -> Sample:
    counted = iter(range(groups))

    def sample(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        for group in speak(name, directory, requests[::-1]):  # asked in reverse, so it answers in order
            if next(counted, None) is None:
                raise InterruptedError
            yield group

    return sample


def judging(server: JudgeServer, mode: str = "pairwise", **changes: Any) -> dict[str, Any]:
    return {"mode": mode, "judge": server.values(**changes)}


def files(directory: Path) -> dict[str, bytes]:
    names = [f"evaluation/{name}" for name in ("samples.jsonl", "results.jsonl", "metrics.json")]
    return {name: (directory / name).read_bytes() for name in [*names, "judge/judgements.jsonl"]}


def test_evaluation_by_a_verifier_writes_no_threshold(task: dict[str, Any], tmp_path: Path) -> None:
    metrics = run_evaluation(config(task), paths(tmp_path), speak)
    values = {name: metrics["models"][name]["pass_at_k"]["1"]["value"] for name in ("short", "long")}
    assert values == {"short": 0.0, "long": pytest.approx(1 / 3)}
    assert metrics["threshold"]["source"] == "verifier"
    assert not (tmp_path / "evaluation" / "threshold.json").exists()


def test_given_threshold_is_stored_and_kept_by_a_later_start(task: dict[str, Any], tmp_path: Path) -> None:
    checked = config(task, checker={"type": "reference", "threshold": 0.5})
    with pytest.raises(InterruptedError):
        run_evaluation(checked, paths(tmp_path), dying_after(3))
    metrics = run_evaluation(checked, paths(tmp_path), speak)
    # ROUGE-L F1 with "number 100": one word of two is 2/3 (1 of 1 and 1 of 2), twice it is 1/2, three times 2/5.
    short = metrics["models"]["short"]
    assert short["mean_reward"]["value"]["value"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 5) / 3)
    assert short["pass_at_k"]["1"]["value"] == pytest.approx(2 / 3)
    assert short["best_at_k"]["2"]["value"] == pytest.approx((2 / 3 * 2 + 1 / 2) / 3)
    file = tmp_path / "evaluation" / "threshold.json"
    assert metrics["threshold"] == json.loads(file.read_text())
    assert (metrics["pass_threshold"], metrics["threshold"]["source"]) == (0.5, "given")
    (tmp_path / "evaluation" / "metrics.json").unlink()
    file.write_text(json.dumps(metrics["threshold"] | {"value": 0.45}))
    assert run_evaluation(checked, paths(tmp_path), speak)["pass_threshold"] == 0.45


def test_judge_as_checker_gives_the_quality(task: dict[str, Any], tmp_path: Path) -> None:
    def two_points_for_two_words(asked: Asked) -> dict[str, Any]:
        return {"relevance": min(5, 1 + 2 * (len(asked.texts["candidate"].split()) > 1))}

    with JudgeServer(two_points_for_two_words) as server:
        checked = config(task, checker={"type": "judge", "threshold": 0.5}, judging=judging(server, "rubric"))
        metrics = run_evaluation(checked, paths(tmp_path), speak)
    # `short` says one word, then two, then three: a quality of 0, 1/2, 1/2.
    assert metrics["models"]["short"]["pass_at_k"]["1"]["value"] == pytest.approx(2 / 3)
    assert metrics["models"]["long"]["pass_at_k"]["1"]["value"] == 1.0


def test_pairs_are_judged_while_samples_are_drawn(task: dict[str, Any], tmp_path: Path) -> None:
    judged_meanwhile: list[int] = []

    def watching(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        for number, group in enumerate(speak(name, directory, requests[::-1])):
            if name == "long" and number == NUM_PROMPTS - 1:
                deadline = time.monotonic() + 30
                while len(server.asked) < 2 and time.monotonic() < deadline:
                    time.sleep(0.005)
                judged_meanwhile.append(len(server.asked))
            yield group

    with JudgeServer(prefers_longer) as server:
        run_evaluation(config(task, judging=judging(server)), paths(tmp_path), watching)
    assert judged_meanwhile and judged_meanwhile[0] >= 2, "both orders of the first pair"
    summary = json.loads((tmp_path / "judge" / "summary.json").read_text())
    assert (summary["status"], summary["n_planned"]) == ("complete", NUM_PROMPTS)
    rows = read_lines(tmp_path / "judge" / "judgements.jsonl")
    assert [row["task_id"] for row in rows] == [f"test-{i}" for i in range(1, NUM_PROMPTS + 1)]
    assert {tuple(row["models"]) for row in rows} == {("long", "short")}


@pytest.mark.parametrize(("baseline", "other"), [("short", "long"), ("long", "short")])
def test_pairs_wait_for_a_baseline_that_comes_later(
    task: dict[str, Any], tmp_path: Path, baseline: str, other: str
) -> None:
    with JudgeServer(prefers_longer) as server:
        run_evaluation(config(task, judging=judging(server), compare_to=baseline), paths(tmp_path), speak)
    rows = read_lines(tmp_path / "judge" / "judgements.jsonl")
    assert [row["models"] for row in rows] == [[other, baseline]] * NUM_PROMPTS


@pytest.mark.parametrize("groups", [0, 4, 9])
def test_resumed_evaluation_writes_the_same_files(task: dict[str, Any], tmp_path: Path, groups: int) -> None:
    with JudgeServer(prefers_longer) as server:
        whole = config(task, judging=judging(server))
        run_evaluation(whole, paths(tmp_path / "whole"), speak)
        num_asked = len(server.asked)
        with pytest.raises(InterruptedError):
            run_evaluation(whole, paths(tmp_path / "killed"), dying_after(groups))
        run_evaluation(whole, paths(tmp_path / "killed"), speak)
        assert len(server.asked) <= 2 * num_asked, "no answer was paid for twice"
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_exhausted_budget_stops_the_judge_alone(task: dict[str, Any], tmp_path: Path) -> None:
    with JudgeServer(prefers_longer) as server:
        poor = config(task, judging=judging(server, budget={"max_tokens": 300}, concurrency=1))
        with pytest.raises(BudgetReached):
            run_evaluation(poor, paths(tmp_path), speak)
    assert len((tmp_path / "evaluation" / "samples.jsonl").read_text().splitlines()) == 2 * 6 * 3
    assert (tmp_path / "evaluation" / "metrics.json").is_file()
    assert json.loads((tmp_path / "judge" / "summary.json").read_text())["status"] == "budget"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"evaluation": {"num_samples": 1, "ks": [1], "text_metrics": ["semantic"]}}, "num_samples=1"),
        ({"evaluation": {"exports": ["evalplus"]}}, "exports"),
        ({"evaluation": {"text_metrics": ["semantic"], "encoder": "/nowhere"}}, "/nowhere"),
        ({"evaluation": {"bert_score": {"model_path": "/nowhere", "num_layers": 2}}}, "/nowhere"),
        ({"evaluation": {"text_metrics": ["reference"]}}, "text_metrics=reference"),
        ({"judging": {"judge": JUDGE, "samples_per_prompt": 17}}, "samples_per_prompt=17"),
        ({"judging": {"judge": JUDGE, "mode": "cluster"}, "evaluation": {"num_samples": 65}}, "mode=cluster"),
        ({"checker": {"type": "judge", "threshold": 0.5}}, r"checker\.type=judge"),
    ],
)
def test_evaluation_that_cannot_end_is_refused_before_sampling(
    task: dict[str, Any], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    def sample(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        raise AssertionError("sampling has begun")

    write_lines(tmp_path / "test.jsonl", [{"prompt": f"say {number}:"} for number in range(6)])
    without_references = {"type": "jsonl", "path": task["held_out_path"]}
    with pytest.raises(ConfigError, match=named):
        run_evaluation(config(without_references, **changes), paths(tmp_path), sample)
    assert not (tmp_path / "evaluation" / "samples.jsonl").exists()


def test_few_shot_and_zero_shot_share_prompts_and_seeds(task: dict[str, Any], tmp_path: Path) -> None:
    template = tmp_path / "two_shot.yaml"
    template.write_text("name: two_shot\nshots: 2\n")
    seen: dict[str, list[GroupRequest]] = {}

    def listening(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        seen[name] = list(requests)
        yield from speak(name, directory, requests)

    arms = {"zero-shot": None, "few-shot": {"prompt": str(template)}}
    run_evaluation(config(task, adapters=arms), paths(tmp_path), listening)
    for plain, shown in zip(seen["zero-shot"], seen["few-shot"], strict=True):
        assert plain.seeds == shown.seeds and shown.prompt.text.endswith(f"\n\n{plain.prompt.text}")
        assert shown.prompt.text.count("number") == 2
