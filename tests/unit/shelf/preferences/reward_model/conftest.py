"""Fixtures of the engagement model's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.launch.trainer import TrainWorker
from polyray.shelf.preferences.reward_model.training import run_reward_training
from tests.unit.shelf.preferences.reward_model.stand_ins import (
    CPU,
    KnownEmbedder,
    known_encoder,
    liking,
    reward_config,
    write_records,
)

__all__ = ["known_encoder"]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, to be read and copied only."""
    folder = tmp_path_factory.mktemp("engagement")
    path = write_records(folder / "r.jsonl", liking)
    config = reward_config(path, head__width=8, head__features=["log_words", "questions"], data__half="train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polyray.shelf.preferences.reward_model.training.Embedder", KnownEmbedder)
        patch.setattr("polyray.shelf.preferences.reward_model.model.shared_embedder", KnownEmbedder)
        run_reward_training(TrainWorker(config, folder, CPU, 0, 1), lambda metrics: None)
    return folder / "model"
