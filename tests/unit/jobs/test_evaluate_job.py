"""`polyray evaluate` with stand-in samplers, and `polyray evaluate score` on files of samples."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.cli.arguments import run
from polyray.cli.evaluate import main
from polyray.config.base import as_json
from polyray.config.evaluation import EvaluationSpec
from polyray.config.loader import build_config, load_config
from polyray.config.prompts import ArmSpec
from polyray.config.run import EvaluateConfig
from polyray.errors import ConfigError
from polyray.evaluation.records import SampleRecord, read_samples
from polyray.launch.evaluate import evaluate, resumable_keys, show
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.tasks.hidden_trap_grid import parse_prompt, shortest_moves
from polyray.types import Completion, Group, GroupRequest, PolicyVersion
from tests.job_checks import check_without_models
from tests.sample_files import write_lines


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    records = [
        SampleRecord(
            f"p{prompt}", "x", index, model=model, reward=float(index < correct), logprob=-1.0, class_id=index
        )
        for model, correct in (("a", 1), ("b", 3))
        for prompt in range(3)
        for index in range(4)
    ]
    path = tmp_path / "run" / "evaluation" / "samples.jsonl"
    write_lines(path, records)
    return path


def score(samples: Path, *options: str) -> dict[str, Any]:
    assert main(["score", str(samples), *options]) == 0
    return json.loads(samples.with_name("metrics.json").read_text())


def test_score_writes_metrics_beside_the_samples(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = score(samples, "--ks", "1,2", "--baseline", "b", "--resamples", "100")
    assert metrics["models"]["a"]["pass_at_k"]["2"]["value"] == pytest.approx(0.5)
    assert (metrics["baseline"], metrics["bootstrap_resamples"], metrics["seed"]) == ("b", 100, 0)
    assert "0.750 [0.750, 0.750]" in capsys.readouterr().out
    for options in (["--selector", "best"], ["--ks", "2,1"]):
        with pytest.raises(ConfigError, match=rf"{options[0].strip('-')}=.*{options[1]}|ks"):
            score(samples, *options)


def test_score_takes_settings_and_threshold_from_the_run(samples: Path) -> None:
    spec = EvaluationSpec(num_samples=4, ks=(1, 4), selector="first", bootstrap_resamples=150)
    config = EvaluateConfig(
        name="run", seed=9, adapters={"a": ArmSpec(), "b": ArmSpec()}, compare_to="b", evaluation=spec
    )
    (samples.parent.parent / "config.json").write_text(json.dumps(as_json(config)))
    write_lines(samples, [replace(record, reward=record.reward * 0.6) for record in read_samples(samples)])
    fixed = {"value": 0.5, "checker": "heuristic", "source": "validation"}
    samples.with_name("threshold.json").write_text(json.dumps(fixed))
    metrics = score(samples, "--selector", "reward")
    assert (metrics["seed"], metrics["baseline"], metrics["selector"]) == (9, "b", "reward")
    assert set(metrics["models"]["a"]["pass_at_k"]) == {"1", "4"}
    assert (metrics["pass_threshold"], metrics["threshold"]) == (0.5, fixed)
    assert metrics["models"]["b"]["pass_at_k"]["1"]["value"] == 0.75
    metrics = score(samples, "--pass-threshold", "0.7")
    assert metrics["models"]["b"]["pass_at_k"]["1"]["value"] == 0.0


def shortest_paths(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
    """Every sample is the path that goes sideways first."""
    for request in requests:
        moves = "".join(shortest_moves(*parse_prompt(request.prompt.text)))
        answer = np.zeros(len(moves) + 1, np.int32), np.zeros(len(moves) + 1, np.float32)
        completions = tuple(Completion(*answer, moves, "stop", seed) for seed in request.seeds)
        policy = PolicyVersion(0, 0, "00")
        yield Group(request.group_id, request.prompt, np.zeros(1, np.int32), completions, policy)


def test_evaluation_with_any_sampler_fills_the_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = EvaluationSpec(num_samples=4, ks=(1, 4), num_prompts=20, bootstrap_resamples=100)
    config = EvaluateConfig(name="e", runs_dir=str(tmp_path), adapters={"base": ArmSpec()}, evaluation=spec)
    with ProgressDisplay() as display, RunDirectory.open(config) as directory:
        evaluate(config, directory, shortest_paths, display)
        assert directory.finished
        show(directory, display)
    records = read_samples(tmp_path / "e" / "evaluation" / "samples.jsonl")
    assert len(records) == 80 and {record.domain for record in records} == {"hidden_trap_grid"}
    values = json.loads((tmp_path / "e" / "evaluation" / "metrics.json").read_text())["models"]["base"]
    # One path only: k tries are worth what one is, and it is right where no trap lies on it.
    assert values["pass_at_k"]["4"] == values["pass_at_k"]["1"]
    assert values["pass_at_k"]["1"]["value"] == np.mean([record.reward for record in records])
    assert 0 < values["pass_at_k"]["1"]["value"] < 1
    assert "evaluating base" in capsys.readouterr().out


def test_evaluation_with_a_raising_reward_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(items):\n    raise RuntimeError('the judge is gone')\n")
    values = {
        "name": "e",
        "runs_dir": str(tmp_path),
        "adapters": {"base": None},
        "reward": {"type": "python", "path": f"{file}:score"},
        "evaluation": {"num_samples": 4, "ks": [1], "num_prompts": 20},
    }
    config = build_config(EvaluateConfig, values)

    def job() -> None:
        with ProgressDisplay() as display, RunDirectory.open(config) as directory:
            evaluate(config, directory, shortest_paths, display)

    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run(job)
    assert ended.value.code == 1
    line, place = capsys.readouterr().err.splitlines()
    pattern = rf"error: .*8 completions of base.*{file}:score .*RuntimeError: the judge is gone .*{file}:2"
    assert re.fullmatch(pattern, line)
    assert place.endswith(str(tmp_path / "e" / "error.log"))
    assert "raise RuntimeError('the judge is gone')" in (tmp_path / "e" / "error.log").read_text()
    assert not (tmp_path / "e" / "DONE").exists()


def test_finished_evaluation_of_a_replaced_adapter_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text(name)
    file = tmp_path / "e.yaml"
    file.write_text(
        f"name: e\nruns_dir: {tmp_path}\nadapters: {{mine: {adapter}}}\n"
        "evaluation: {num_prompts: 4, num_samples: 2, ks: [1], bootstrap_resamples: 100}\n"
    )
    config = load_config(EvaluateConfig, file)
    with ProgressDisplay() as display, RunDirectory.open(config) as directory:
        evaluate(config, directory, shortest_paths, display)
    assert main([str(file)]) == 0
    assert "samples.jsonl" in capsys.readouterr().out
    (adapter / "adapter_model.safetensors").write_text("trained again")
    with pytest.raises(ConfigError, match=r"arms\.mine: sha256"):
        main([str(file)])
    assert "samples.jsonl" not in capsys.readouterr().out


def test_options_are_short_for_keys_and_programs_need_consent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "e.yaml"
    config.write_text(
        f"name: e\nruns_dir: {tmp_path}/runs\nmodel: {{cache_dir: {tmp_path}}}\nadapters: {{base: null}}\n"
        "evaluation: {num_prompts: 2, num_samples: 8}\ntask: {type: code}\nreward: {type: sandbox}\n"
    )
    with pytest.raises(ConfigError, match="--allow-code-execution"):
        main([str(config)])
    assert not (tmp_path / "runs").exists()
    options = ["--allow-code-execution", "--export", "evalplus", "--allow-self-selection"]
    assert check_without_models(main, [str(config), *options]) == 0
    checked = json.loads(capsys.readouterr().out)["config"]
    assert checked["reward"]["allow_code_execution"] is True
    assert checked["evaluation"]["exports"] == ["evalplus"]
    assert checked["evaluation"]["allow_self_selection"] is True
    with pytest.raises(ConfigError, match="--export"):
        main([str(config), "--check", "--export", "word"])


def test_judged_evaluation_resumes_with_a_larger_budget_only(tmp_path: Path) -> None:
    def config(**judge: object) -> EvaluateConfig:
        asked = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", **judge}
        values = {
            "name": "e",
            "runs_dir": str(tmp_path),
            "adapters": {"base": None},
            "judging": {"judge": asked},
        }
        return build_config(EvaluateConfig, values)

    with RunDirectory.open(config(budget={"max_tokens": 10}), resumable_keys()) as directory:
        directory.paths.evaluation.mkdir()
    with RunDirectory.open(config(budget={"max_tokens": 99}), resumable_keys()):
        pass
    with pytest.raises(ConfigError, match=r"judging\.judge\.model"):
        RunDirectory.open(config(model="another"), resumable_keys())
