"""A whole evaluation without engines: arms, checker, judge, files; killed and taken up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    for name, start in (("train", 0), ("test", 100)):
        rows = [
            {
                "prompt": f"say {start + i}:",
                "reference": f"number {start + i}",
                "response": f"number {start + i}",
            }
            for i in range(NUM_PROMPTS)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"type": "jsonl", "path": f"{tmp_path}/train.jsonl", "held_out_path": f"{tmp_path}/test.jsonl"}


def config(task: dict[str, Any], **changes: Any) -> EvaluateConfig:
    values: dict[str, Any] = {
        "name": "e",
        "task": task,
        "adapters": {"short": None, "long": None},
        "evaluation": {
            "num_samples": NUM_SAMPLES,
            "ks": [1, 2],
            "selector": "first",
            "bootstrap_resamples": 100,
        },
    }
    return build_config(EvaluateConfig, values | changes)


def paths(directory: Path) -> EvaluationPaths:
    return EvaluationPaths(directory / "evaluation", directory / "judge")


def speak(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
    """`short` knows one word, `long` knows the reference; sample i repeats it i times."""
    for request in requests[::-1]:
        number = request.prompt.text.rpartition("say ")[2].rstrip(":")
        word = number if name == "short" else f"number {number}"
        completions = tuple(
            Completion(
                np.zeros(2, np.int32), np.zeros(2, np.float32), " ".join([word] * (i + 1)), "stop", seed
            )
            for i, seed in enumerate(request.seeds)
        )
        yield Group(
            request.group_id, request.prompt, np.zeros(1, np.int32), completions, PolicyVersion(0, 0, "a")
        )


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
    names = ["evaluation/samples.jsonl", "evaluation/results.jsonl", "evaluation/metrics.json"]
    names += ["judge/judgements.jsonl"]
    return {name: (directory / name).read_bytes() for name in names}


def test_a_verifier_needs_no_threshold_file(task: dict[str, Any], tmp_path: Path) -> None:
    metrics = run_evaluation(config(task), paths(tmp_path), speak)
    values = {name: metrics["models"][name]["pass_at_k"]["1"]["value"] for name in ("short", "long")}
    assert values == {"short": 0.0, "long": pytest.approx(1 / 3)}
    assert metrics["threshold"]["source"] == "verifier"
    assert not (tmp_path / "evaluation" / "threshold.json").exists()


def test_a_given_threshold_is_stored_beside_the_numbers(task: dict[str, Any], tmp_path: Path) -> None:
    checked = config(task, checker={"type": "reference", "threshold": 0.5})
    metrics = run_evaluation(checked, paths(tmp_path), speak)
    # ROUGE-L F1 with "number 100": one word of two is 2/3 (1 of 1 and 1 of 2), twice it is 1/2, three times 2/5.
    short = metrics["models"]["short"]
    assert short["mean_reward"]["value"]["value"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 5) / 3)
    assert short["pass_at_k"]["1"]["value"] == pytest.approx(2 / 3)
    assert metrics["threshold"] == json.loads((tmp_path / "evaluation" / "threshold.json").read_text())
    assert (metrics["pass_threshold"], metrics["threshold"]["source"]) == (0.5, "given")
    assert short["best_at_k"]["2"]["value"] == pytest.approx((2 / 3 * 2 + 1 / 2) / 3)


def test_a_threshold_that_was_fixed_stays(task: dict[str, Any], tmp_path: Path) -> None:
    """A start that was killed had fixed it; what the next one would compute is no matter."""
    checked = config(task, checker={"type": "reference", "threshold": 0.5})
    with pytest.raises(InterruptedError):
        run_evaluation(checked, paths(tmp_path), dying_after(3))
    file = tmp_path / "evaluation" / "threshold.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"value": 0.45}))
    assert run_evaluation(checked, paths(tmp_path), speak)["pass_threshold"] == 0.45


def test_a_judge_as_checker_needs_a_rubric(task: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"checker\.type=judge"):
        config(task, checker={"type": "judge", "threshold": 0.5})


def test_a_judge_as_checker_gives_the_quality(task: dict[str, Any], tmp_path: Path) -> None:
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
                wait_until(lambda: len(server.asked) >= 2)
                judged_meanwhile.append(len(server.asked))
            yield group

    with JudgeServer(prefers_longer) as server:
        run_evaluation(config(task, judging=judging(server)), paths(tmp_path), watching)
    assert judged_meanwhile and judged_meanwhile[0] >= 2, "both orders of the first pair"
    summary = json.loads((tmp_path / "judge" / "summary.json").read_text())
    assert (summary["status"], summary["n_planned"]) == ("complete", NUM_PROMPTS)
    rows = [json.loads(line) for line in (tmp_path / "judge" / "judgements.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in rows] == [f"test-{i}" for i in range(1, NUM_PROMPTS + 1)]
    assert {tuple(row["models"]) for row in rows} == {("long", "short")}


def wait_until(done: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("baseline", ["short", "long"])
def test_pairs_wait_for_a_baseline_that_comes_later(
    task: dict[str, Any], tmp_path: Path, baseline: str
) -> None:
    with JudgeServer(prefers_longer) as server:
        run_evaluation(config(task, judging=judging(server), compare_to=baseline), paths(tmp_path), speak)
    rows = [json.loads(line) for line in (tmp_path / "judge" / "judgements.jsonl").read_text().splitlines()]
    other = {"short": "long", "long": "short"}[baseline]
    assert [tuple(row["models"]) for row in rows] == [(other, baseline)] * NUM_PROMPTS


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


def test_a_budget_stops_the_judge_and_nothing_else(task: dict[str, Any], tmp_path: Path) -> None:
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
        ({"evaluation": {"num_samples": 1, "ks": [1], "text_metrics": ["self_bleu"]}}, "num_samples=1"),
        ({"evaluation": {"exports": ["evalplus"]}}, "exports"),
        ({"judging": {"judge": {}, "samples_per_prompt": 17}}, "samples_per_prompt=17"),
        ({"judging": {"judge": {}, "mode": "cluster"}, "evaluation": {"num_samples": 65}}, "mode=cluster"),
    ],
)
def test_evaluation_that_would_fail_after_sampling_is_refused(
    task: dict[str, Any], changes: dict[str, Any], named: str
) -> None:
    if "judging" in changes:
        changes["judging"]["judge"] = {"provider": "openai", "model": "m"}
    with pytest.raises(ConfigError) as raised:
        config(task, **changes)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"text_metrics": ["semantic"], "encoder": "/nowhere"}, "/nowhere"),
        ({"bert_score": {"model_path": "/nowhere", "num_layers": 2}}, "/nowhere"),
        ({"text_metrics": ["reference"]}, "text_metrics=reference"),
    ],
)
def test_text_metrics_that_cannot_be_computed_fail_before_sampling(
    task: dict[str, Any], tmp_path: Path, metrics: dict[str, Any], named: str
) -> None:
    def sample(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        raise AssertionError("sampling has begun")

    without = tmp_path / "test.jsonl"
    rows = [{"prompt": f"say {number}:"} for number in range(6)]
    without.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task["path"] = task["held_out_path"]
    del task["held_out_path"]
    spec = {"num_samples": 2, "ks": [1, 2], "selector": "first", "bootstrap_resamples": 100, **metrics}
    with pytest.raises(ConfigError) as raised:
        run_evaluation(config(task, evaluation=spec), paths(tmp_path), sample)
    assert named in str(raised.value)
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
