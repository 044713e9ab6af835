"""docs/python-api.md as a reader does it: its script in a fresh directory, with smaller sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.runs.jsonl import read_jsonl
from tests.conftest import REPOSITORY_ROOT

SIZES = """
    delivery={"mode": "merged"},
    dynamics=None,
    rollout={"prompts_per_step": 2, "group_size": 6},
    dotted={"learner.num_threads": 1, "ray.dashboard": False, "reward.service.num_cpus": 0.5},
    steps=2,
"""
"""What the test puts in place of the printed number of steps."""
CLOSURE = "\nprinted = reward\nreward = (lambda bound: lambda items: bound(items))(printed)\n"
"""Makes the printed reward a closure."""


@pytest.fixture
def directory(tmp_path: Path, model_cache: Path) -> Path:
    """Fresh directory beside a home with the embedded model of the session."""
    cache = tmp_path / "home" / ".cache"
    cache.mkdir(parents=True)
    (cache / "polyray").symlink_to(model_cache)
    found = tmp_path / "work"
    found.mkdir()
    return found


def script() -> str:
    document = (REPOSITORY_ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    block = re.search(r"```python first_run\.py\n(.*?)```", document, re.DOTALL)
    assert block and "    steps=20,\n" in block[1] and "\nprompts = " in block[1]
    return (
        block[1]
        .replace("    steps=20,\n", SIZES.lstrip("\n"))
        .replace("\nprompts = ", f"{CLOSURE}\nprompts = ")
    )


@pytest.mark.slow  # a Ray and engines of its own
def test_script_of_the_document_trains_and_evaluates_with_a_closure(directory: Path) -> None:
    (directory / "first_run.py").write_text(script(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "first_run.py"],
        cwd=directory, capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, "HOME": str(directory.parent / "home"), "PYTHONPATH": str(REPOSITORY_ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    run, evaluation = directory / "runs" / "train", directory / "runs" / "train-evaluation"
    assert str(run / "adapter") in done.stdout and (run / "adapter" / "adapter_config.json").is_file()
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["reward"]["type"] == "callable" and config["learner"]["steps"] == 2

    metrics, rollouts = read_jsonl(run / "metrics.jsonl"), read_jsonl(run / "rollouts.jsonl")
    assert [line["unscored"] for line in metrics] == [0, 0]
    namespace: dict[str, Any] = {}
    exec(script().partition("printed = reward")[0], namespace)
    for line in rollouts:
        expected = [
            namespace["judge"](text["text"], int(line["prompt"][3:-1]))["score"]
            for text in line["completions"]
        ]
        assert [text["reward"] for text in line["completions"]] == pytest.approx(expected)

    measured = json.loads((evaluation / "evaluation" / "metrics.json").read_text(encoding="utf-8"))["models"]
    assert list(measured) == ["base", "trained"] and list(measured["trained"]["pass_at_k"]) == ["1", "8"]
    assert done.stdout.rstrip().endswith(str(measured["trained"]["pass_at_k"]["8"]["value"]))


ALL_CALLS = """
import json
import urllib.request

import polyray

small = {"learner.num_threads": 1, "ray.dashboard": False}
sft = polyray.sft("configs/sft/hidden_trap_grid.yaml", steps=4, dotted=small)
fleet = {**small, "dynamics": None}
fleet |= {"rollout": {"prompts_per_step": 2, "group_size": 4}, "reward.service.num_cpus": 0.5}
run = polyray.train(
    "configs/train/hidden_trap_grid.yaml",
    algorithm="@drgrpo", steps=2, name="first", model={"warm_start": str(sft.adapter)}, dotted=fleet,
)
sweep = polyray.sweep(
    "configs/sweep/lambda_seed.yaml",
    seeds=[0],
    parameters={"algorithm.diversity_weight": {"grid": [0.5, 1.0]}},
    overrides=[
        "algorithm=@polychromic", "learner.steps=1", "evaluation.every=1", "evaluation.num_prompts=4",
        "learner.num_threads=1", "rollout.prompts_per_step=2", "rollout.group_size=8", "reward.service.num_cpus=0.5",
    ],
    evaluation={"config": "configs/evaluate/hidden_trap_grid.yaml", "overrides": ["evaluation.num_prompts=8"]},
    dotted={"ray.dashboard": False},
)
with polyray.serve(
    "configs/serve/generation.yaml", adapters=[{"path": str(run.adapter), "name": "first"}], port=0,
    dotted={"ray.dashboard": False},
) as service:
    body = json.dumps({"prompt": "37|b1>e4=", "k": 2, "model": "first"}).encode()
    request = urllib.request.Request(
        service.url + "/v1/candidates", body, {"Content-Type": "application/json"}
    )
    candidates = json.load(urllib.request.urlopen(request, timeout=60))["candidates"]
print(json.dumps({
    "steps": [len(sft.history()), len(run.history())],
    "trials": len(sweep.results["trials"]),
    "best": (sweep.best / "adapter_config.json").is_file(),
    "candidates": len(candidates),
}))
"""


@pytest.mark.slow
def test_one_process_runs_sft_train_sweep_and_serve(directory: Path) -> None:
    (directory / "all_calls.py").write_text(ALL_CALLS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "all_calls.py"],
        cwd=directory, capture_output=True, text=True, timeout=800, check=False,
        env={**os.environ, "HOME": str(directory.parent / "home"), "PYTHONPATH": str(REPOSITORY_ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    assert found == {"steps": [4, 2], "trials": 2, "best": True, "candidates": 2}
