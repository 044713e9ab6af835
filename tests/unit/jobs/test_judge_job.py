"""`polyray judge` from command line to files: killed and resumed, out of budget, two judges compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.cli.judge import main
from polyray.errors import BudgetReached, ConfigError, JudgeError
from polyray.evaluation.records import SampleRecord
from polyray.shelf.judge import read_judgements
from tests.sample_files import write_lines
from tests.unit.shelf.judge.judge_server import (
    Asked,
    JudgeServer,
    Reply,
    counts_words,
    prefers_first,
    prefers_longer,
)

ROOT = Path(__file__).resolve().parents[3]
WORDS = {"base": 2, "new": 4}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """20 prompts in 10 clusters, two samples of each of two models; `new` writes twice as much."""
    path = tmp_path / "samples.jsonl"
    records = [
        SampleRecord(
            f"t{task}", " ".join([f"word{task}{index}"] * count), index, model=model, prompt=f"Say {task}.",
            cluster_id=f"c{task // 2}", prompt_sha256=str(task), domain="creative",
        )
        for model, count in WORDS.items()
        for task in range(20)
        for index in range(2)
    ]  # fmt: skip
    write_lines(path, records)
    return path


@pytest.fixture
def config(tmp_path: Path, samples: Path) -> Callable[..., str]:
    """Writes a configuration for a server and returns its path."""

    def write(
        server: JudgeServer, name: str, runs: str = "runs", judge: dict[str, Any] | None = None, **top: Any
    ) -> str:
        values = {
            "name": name, "runs_dir": str(tmp_path / runs), "samples": str(samples), "bootstrap_resamples": 100,
            "judge": server.values(concurrency=4, **(judge or {})), **top,
        }  # fmt: skip
        path = tmp_path / f"{runs}-{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


def folder(config_file: str) -> Path:
    values = yaml.safe_load(Path(config_file).read_text())
    return Path(values["runs_dir"]) / values["name"] / "judge"


def summary(config_file: str) -> dict[str, Any]:
    return json.loads((folder(config_file) / "summary.json").read_text())


def test_pairs_of_samples_become_a_table_shown_again_until_samples_change(
    config: Callable[..., str], samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with JudgeServer(prefers_longer) as server:
        file = config(server, "pairs", samples_per_prompt=2)
        assert main([file]) == main([file]) == 0
        assert len(server.asked) == 80
        found = summary(file)
        samples.write_text(samples.read_text() + "\n")
        with pytest.raises(ConfigError, match=r"samples\.jsonl .*name="):
            main([file])
        with pytest.raises(ConfigError, match=r"judge\.model: m -> m2"):
            main([config(server, "pairs", samples_per_prompt=2, judge={"model": "m2"})])
    assert (found["status"], found["n_planned"], found["n_judged"]) == ("complete", 40, 40)
    (entry,) = found["pairs"]
    assert (entry["model"], entry["baseline"]) == ("new", "base")
    assert (entry["win_rate"]["value"], entry["wins"], entry["losses"]) == (1.0, 40, 0)
    assert found["position_bias"]["first_share"]["value"] == 0.5
    assert found["spent"]["input_tokens"] == 8000
    assert capsys.readouterr().out.count("new    base     1.000 [1.000, 1.000]  40") == 2


def test_agreement_of_two_runs_and_position_bias(
    config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name, script in (("longer", prefers_longer), ("first", prefers_first)):
        with JudgeServer(script) as server:
            files.append(config(server, name))
            main([files[-1]])
    bias = summary(files[1])["position_bias"]
    assert (bias["first_share"]["value"], bias["flip_share"]["value"], bias["reversals"]) == (1.0, 1.0, 20)
    assert summary(files[1])["pairs"][0]["win_rate"]["value"] == 0.5
    capsys.readouterr()
    assert main(["agreement", *(str(folder(file).parent) for file in files)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_items"], found["values"]["verdict"]["share"]) == (20, 0.0)
    with pytest.raises(ConfigError, match="nowhere"):
        main(["agreement", "nowhere", "here"])


def test_rubric_scores_correlate_with_human_ratings(config: Callable[..., str], tmp_path: Path) -> None:
    rated = tmp_path / "rated.jsonl"
    with rated.open("w") as file:
        for n in range(1, 6):
            story = {"model": "Human", "text": "w " * n, "human_ratings_mean": {"empathy": n}}
            file.write(json.dumps({"id": f"r{n}", "prompt": "p", "stories": [story]}) + "\n")
    with JudgeServer(counts_words) as server:
        job = config(server, "rubric", judge={"criteria": "hanna"}, mode="rubric", human_ratings=str(rated))
        assert main([job]) == 0
    found = summary(job)
    assert found["models"]["base"]["empathy"]["value"] == 2.0
    assert found["models"]["new"]["quality"]["value"] == 0.75
    assert found["models"]["rated/Human"]["quality"]["value"] == 0.5
    assert found["human_correlation"]["empathy"]["spearman"] == pytest.approx(1.0)
    assert found["human_correlation"]["empathy"]["num_items"] == 5


def test_killed_judge_resumes_to_the_same_bytes(config: Callable[..., str]) -> None:
    def slow(asked: Asked) -> Reply:
        return Reply(prefers_longer(asked), delay_s=0.03)

    with JudgeServer(slow) as server:
        unbroken = config(server, "run", runs="unbroken", samples_per_prompt=2)
        main([unbroken])
        server.asked.clear()
        broken = config(server, "run", runs="broken", samples_per_prompt=2)
        for wanted in (5, 45):
            _kill_after(broken, server, wanted)
        answers = (folder(broken) / "answers.jsonl").read_bytes()
        paid = answers.count(b"\n")
        assert 30 <= paid < 80
        with (folder(broken) / "answers.jsonl").open("ab") as file:
            file.write(b'{"key": "torn')
        with (folder(broken) / "judgements.jsonl").open("ab") as file:
            file.write(b'{"item_id"')
        server.asked.clear()
        assert main([broken]) == 0
        assert len(server.asked) == 80 - paid, "not one answered request is repeated"
    assert (folder(broken) / "judgements.jsonl").read_bytes() == (
        folder(unbroken) / "judgements.jsonl"
    ).read_bytes()
    assert summary(broken) == summary(unbroken)
    costs = [json.loads((folder(run).parent / "cost.json").read_text()) for run in (broken, unbroken)]
    assert [cost["starts"] for cost in costs] == [3, 1]
    assert costs[0]["judge_requests"] == costs[1]["judge_requests"] == 80
    assert costs[0]["judge_tokens"] == costs[1]["judge_tokens"] > 0
    assert costs[0]["money"] is None


def _kill_after(config_file: str, server: JudgeServer, wanted: int) -> None:
    """SIGKILL once the server was asked `wanted` times, over all starts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.judge", config_file], cwd=ROOT, env={**os.environ}
    )
    deadline = time.monotonic() + 120
    try:
        while len(server.asked) < wanted:
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_budget_stops_the_judge_and_a_larger_one_continues(config: Callable[..., str]) -> None:
    values = {"prices": {"input": 1.0, "output": 10.0}, "budget": {"max_cost_usd": 0.002}}  # 0.0002 a request
    with JudgeServer(prefers_longer) as server:
        file = config(server, "budget", judge=values)
        with pytest.raises(BudgetReached, match=r"judge\.budget\.max_cost_usd=0\.002"):
            main([file])
        assert len(server.asked) <= 10
        found = summary(file)
        assert found["status"] == "budget"
        assert found["n_judged"] == len(read_judgements(folder(file) / "judgements.jsonl"))
        assert 3 <= found["n_judged"] <= 5
        assert found["spent"]["cost_usd"] <= 0.002
        assert main([file, "judge.budget.max_cost_usd=1"]) == 0
        assert len(server.asked) == 40
    assert summary(file)["status"] == "complete"
    assert summary(file)["spent"]["cost_usd"] == pytest.approx(40 * 0.0002)
    cost = json.loads((folder(file).parent / "cost.json").read_text())
    assert cost["starts"] == 2
    assert (cost["judge_requests"], cost["judge_money"]) == (40, pytest.approx(40 * 0.0002))
    assert cost["money"] == cost["judge_money"]


def test_invalid_answers_stop_the_judge_and_their_rows_stay(config: Callable[..., str]) -> None:
    with JudgeServer(lambda asked: "hm") as server:
        file = config(server, "nonsense", judge={"max_retries": 0})
        with pytest.raises(JudgeError, match="20 of 20 items"):
            main([file])
    rows = read_judgements(folder(file) / "judgements.jsonl")
    assert len(rows) == 20 and not any(row.judged for row in rows)
    assert summary(file)["status"] == "stopped"
    assert summary(file)["unjudged_reasons"] == {"invalid answer": 20}
    assert summary(file)["pairs"] == []


def test_answers_are_shared_between_runs(config: Callable[..., str], tmp_path: Path) -> None:
    with JudgeServer(prefers_longer) as server:
        cache = {"cache_dir": str(tmp_path / "answers")}
        first, second = config(server, "first", **cache), config(server, "second", **cache)
        main([first])
        main([second])
        assert len(server.asked) == 40
    assert summary(first)["spent"]["requests"] == 40
    assert summary(second)["spent"]["requests"] == 0, "the second run pays nothing"
    assert summary(second)["usage"] == summary(first)["usage"]


def test_check_prints_the_number_of_requests(
    config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with JudgeServer(prefers_longer) as server:
        file = config(server, "check", judge={"prices": {"input": 1, "output": 1}, "max_tokens": 50})
    assert main([file, "--check"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert (derived["items"], derived["requests"], derived["output_tokens_at_most"]) == (20, 40, 2000)
    assert 5_000 < derived["input_tokens_about"] < 50_000
    assert server.asked == []
