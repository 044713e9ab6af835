"""Derived values and errors of `jobs.train_reward --check`; absolute paths for workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from polyray.cli.train_reward import main
from polyray.config.loader import load_config
from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import DataError
from tests.conftest import REPOSITORY_ROOT

PAIRS = "configs/reward/my_pairs.yaml"


def test_check_counts_without_torch_or_ray() -> None:
    code = (
        "import sys; from jobs.train_reward import main; "
        f"main([{PAIRS!r}, '--check', 'epochs=4', 'rows_per_step=4']); "
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY_ROOT
    )
    text, _, modules = done.stdout.rpartition("}\n")
    assert modules.strip() == "[]"
    derived = json.loads(text + "}")["derived"]
    assert {name: derived[name] for name in ("train_pairs", "validation_pairs", "texts_to_embed", "steps")} == {
        "train_pairs": 6, "validation_pairs": 2, "texts_to_embed": 24, "steps": 6
    }  # fmt: skip


def test_the_small_set_that_ships_can_be_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(REPOSITORY_ROOT / "configs/reward/replies.yaml"), "--check"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert derived["train_pairs"] > 10 and derived["validation_pairs"] > 0


def test_check_names_missing_data(tmp_path: Path) -> None:
    path = str(REPOSITORY_ROOT / "configs/reward/reward_train.yaml")
    with pytest.raises(DataError, match=r"absent\.jsonl: .*data\.path"):
        main([path, "--check", f"data.path={tmp_path / 'absent.jsonl'}"])


def test_paths_are_absolute_and_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY_ROOT)
    config = load_config(TrainRewardConfig, PAIRS)
    assert config.data.path == str(REPOSITORY_ROOT / "configs/reward/my_pairs.jsonl")
    assert config.encoder.name == "packaged"
    builtin = load_config(TrainRewardConfig, "configs/reward/replies.yaml")
    assert builtin.data.source is not None and builtin.data.source.path == "builtin"  # type: ignore[union-attr]


def test_a_wrong_path_costs_a_line_and_leaves_the_name_free(tmp_path: Path) -> None:
    path = str(REPOSITORY_ROOT / "configs/reward/reward_train.yaml")
    with pytest.raises(DataError, match=r"nowhere: .*polyray curate data"):
        main([path, f"data.path={tmp_path}/nowhere", f"runs_dir={tmp_path}/runs"])
    assert not (tmp_path / "runs").exists()
