"""Derived values and errors of `jobs.sft --check`, before a tokenizer is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyray.cli.sft import main
from polyray.errors import ConfigError, DataError
from tests.job_checks import check_without_models

FEW_THREADS = "2: the base is smaller than 100 MiB, or not on this machine"


def _config_file(folder: Path, rows: list[str], more: str = "") -> str:
    (folder / "mine.jsonl").write_text("".join(row + "\n" for row in rows))
    path = folder / "sft.yaml"
    path.write_text(f"name: a\ndata: {{type: jsonl, train: {folder / 'mine.jsonl'}}}\n{more}")
    return str(path)


def _derived(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    return json.loads(capsys.readouterr().out)["derived"]


def test_sizes_of_a_run_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ['{"prompt": "1", "completion": "U"}'] * 10
    path = _config_file(tmp_path, rows, "epochs: 3\ndemonstrations_per_step: 4\nmax_tokens: 16\n")
    assert check_without_models(main, [path]) == 0
    sizes = _derived(capsys)
    assert re.fullmatch(
        r"\d+ rows: .+", str(sizes.pop("micro_batch"))
    )  # by the shape of the base, if it is there
    assert sizes == {
        "rows": 10, "validation_rows": 0, "epochs": 3.2, "steps": 8, "demonstrations_in_run": 32,
        "max_tokens_per_step": 64, "logical_cpus_needed": 1.0, "learner_threads": FEW_THREADS,
    }  # fmt: skip


def test_sizes_of_a_run_on_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sft.yaml").write_text("name: a\nlearner: {steps: 5}\n")
    assert check_without_models(main, [str(tmp_path / "sft.yaml")]) == 0
    sizes = _derived(capsys)
    assert re.fullmatch(r"\d+ rows: .+", str(sizes.pop("micro_batch")))
    assert sizes == {
        "steps": 5, "demonstrations_in_run": 320, "max_tokens_per_step": 4096, "logical_cpus_needed": 1.0,
        "learner_threads": FEW_THREADS,
    }  # fmt: skip


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    path = _config_file(tmp_path, ['{"prompt": "1", "completion": "U"}', '{"prompt": "1"}'])
    with pytest.raises(DataError, match=r"mine\.jsonl:2: .*prompt .*'completion'"):
        main([path, "--check"])


def test_allow_code_execution_reaches_the_objective_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(
        "name: a\ntask: {type: code}\nmodel: {path: Qwen/Qwen3-0.6B}\nmax_tokens: 896\n"
        "objective: {type: polychromic, objective: distinct_correct, diversity_weight: 0.3, set_size: 4, "
        "reward: {type: sandbox}, rollout: {group_size: 8}}\n"
    )
    with pytest.raises(ConfigError, match="allow_code_execution=false"):
        main([str(file), "--check"])
    capsys.readouterr()
    assert main([str(file), "--check", "--allow-code-execution"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["objective"]["reward"]["allow_code_execution"] is True
