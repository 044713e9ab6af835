"""Starts a printed command with the sizes of a test (no test; run as a script by the `python` of a fresh clone).

    python tests/smaller.py -m polyray.cli train CONFIG ...

The printed words reach the job unchanged. Overrides of sizes are added behind them, so a job does the same with less.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

REAL_PYTHON = "POLYRAY_TEST_PYTHON"
"""Environment variable: the interpreter that runs the command."""

GRID_SWEEP = (
    "overrides=[algorithm.quality_weight=1.0, learner.steps=2, evaluation.every=1, evaluation.num_prompts=4]",
    "evaluation.overrides=[evaluation.num_prompts=8]",
)
SMALLER: dict[str, tuple[str, ...]] = {
    "quickstart": (
        "pretrain=.venv/smaller/pretrain.yaml",
        "sft=.venv/smaller/sft.yaml",
        "evaluate=.venv/smaller/evaluate.yaml",
        "overrides=[learner.steps=2]",
    ),
    "quickstart configs/quickstart_smollm2.yaml": ("overrides=[learner.steps=2]",),
    "pretrain": ("steps=40",),
    "sft": ("learner.steps=4",),
    "sft configs/sft/my_data.yaml": ("epochs=1",),
    "train": ("learner.steps=2",),
    "train name=second": ("learner.steps=40",),
    "train configs/train/hidden_trap_grid.yaml algorithm=@drgrpo evaluation.every=10": (
        "learner.steps=2",
        "evaluation.every=1",
        "evaluation.num_prompts=8",
    ),
    "evaluate": ("evaluation.num_prompts=20",),
    "evaluate score": ("--resamples", "200"),
    "evaluate reward": (),
    "sweep configs/sweep/lambda_seed.yaml": GRID_SWEEP,
    "sweep configs/sweep/optuna_pareto.yaml": (
        "search.num_settings=2",
        "search.num_random_settings=1",
        "seeds=[0]",
        *GRID_SWEEP,
    ),
    "train_reward": ("learner.steps=10",),
    "analyze mechanistic": ("--prompts", "4", "--samples", "4"),
    "analyze ablation": ("evaluation.num_prompts=8",),
    "benchmarks scale": ("--workers", "1", "4", "--steps", "4", "--full-speed", "--full-speed-groups", "64"),
    "benchmarks async": ("--steps", "4", "--parts", "overlap"),
    "benchmarks sweep": ("--parts", "simulated", "--trials", "2", "--rounds", "1"),
}
"""Job and words of it -> what is added; the longest match counts."""
SMALLER_FILES = {
    "pretrain": ("configs/pretrain.yaml", {"steps": 40}),
    "sft": ("configs/sft/hidden_trap_grid.yaml", {"learner.steps": 4}),
    "evaluate": ("configs/evaluate/hidden_trap_grid.yaml", {"evaluation.num_prompts": 20}),
}
"""Files of the quickstart's parts, which take no overrides -> the sizes of their copies in `.venv/smaller/`."""
SIZES = frozenset(
    {
        "steps", "epochs", "learner.steps", "num_samples", "evaluation.every", "evaluation.num_prompts",
        "evaluation.num_samples", "overrides", "evaluation.overrides", "seeds", "arms",
        "search.num_settings", "search.num_random_settings", "pretrain", "sft", "evaluate",
        "--steps", "--prompts", "--samples", "--resamples", "--workers", "--full-speed", "--full-speed-groups",
        "--parts", "--trials", "--rounds",
    }
)  # fmt: skip
"""All that may be added: how much is done, never what, where or how."""


def added(words: Sequence[str]) -> tuple[str, ...]:
    """Takes a command's words behind the interpreter."""
    if words[:2] == ["-m", "polyray.cli"]:
        words = ["-m", *words[2:]]
    if len(words) < 2 or words[0] != "-m" or {"--check", "--help", "-h"} & set(words):
        return ()
    job, given = words[1].removeprefix("jobs."), set(words[2:])
    if not given and job != "quickstart":
        return ()
    matches = [key for key in SMALLER if key.split()[0] == job and set(key.split()[1:]) <= given]
    return SMALLER[max(matches, key=lambda key: len(key.split()))] if matches else ()


if __name__ == "__main__":
    python = os.environ[REAL_PYTHON]
    os.execv(python, [python, *sys.argv[1:], *added(sys.argv[1:])])
