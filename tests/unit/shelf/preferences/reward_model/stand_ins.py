"""An encoder with known embeddings, and matching records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.loader import build_config
from polyray.config.reward_model import TrainRewardConfig
from polyray.models.embedder import PACKAGED, shared_embedder
from polyray.runs.atomic import atomic_write_bytes
from polyray.runs.jsonl import encode_line
from polyray.shelf.preferences.engagement import EngagementRecord
from polyray.shelf.preferences.reward_model.card import DataCard, EncoderCard, ModelCard, cluster_digests
from polyray.shelf.preferences.reward_model.features import BLOCKS
from polyray.shelf.preferences.reward_model.model import ModelConfig, save_model

DIMENSION = 6
CPU = torch.device("cpu")


def vector_of(text: str) -> np.ndarray:
    """[DIMENSION] of length 1, by a hash of the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class KnownEmbedder:
    """Takes the place of Embedder."""

    dimension, max_tokens, name, sha256 = DIMENSION, 16, "known", "known-sha256"
    directory = Path("/known")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.model = torch.nn.Linear(1, 1)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return (
            np.stack([vector_of(text) for text in texts]) if texts else np.zeros((0, DIMENSION), np.float32)
        )

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(self.max_tokens, 2 + len(text.split())) for text in texts]


@pytest.fixture
def known_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and loading use KnownEmbedder."""
    monkeypatch.setattr("polyray.shelf.preferences.reward_model.training.Embedder", KnownEmbedder)
    monkeypatch.setattr("polyray.shelf.preferences.reward_model.model.shared_embedder", KnownEmbedder)


Rate = Callable[[str, np.random.Generator], dict[str, Any]]
"""The fields of a record that depend on its completion."""


def write_records(path: Path, rate: Rate, *, clusters: int = 60, siblings: int = 4, seed: int = 0) -> Path:
    """JSON Lines of `siblings` completions for a prompt of each cluster; a fifth is validation, a tenth test."""
    rng = np.random.default_rng(seed)
    lines = []
    for cluster in range(clusters):
        part = "test" if cluster % 10 == 0 else "validation" if cluster % 5 == 1 else "train"
        for number in range(siblings):
            text = f"completion {cluster} {number}"
            fields = {
                "record_id": f"{cluster}/{number}",
                "prompt": f"prompt {cluster}",
                "completion": text,
                "prompt_id": f"p{cluster}",
                "cluster_id": f"c{cluster}",
                "part": part,
                **rate(text, rng),
            }
            lines.append(encode_line(EngagementRecord.model_validate(fields).model_dump(mode="json")))
    atomic_write_bytes(path, b"".join(lines))
    return path


def liking(text: str, rng: np.random.Generator) -> dict[str, Any]:
    """People like the first coordinate."""
    return {"engagement": float(10 * vector_of(text)[0] + 0.5 * rng.normal())}


def reward_config(path: Path, **changes: Any) -> TrainRewardConfig:
    """A short run on `path`; `a__b=c` sets a.b."""
    values: dict[str, Any] = {
        "name": "model",
        "data": {"path": str(path)},
        "head": {"width": 0, "dropout": 0.0, "input_dropout": 0.0},
        "learner": {"steps": 60, "learning_rate": 0.05, "warmup_steps": 2, "weight_decay": 0.01},
        "rows_per_step": 64,
    }
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    return build_config(TrainRewardConfig, values)


def save_engagement_model(path: Path, clusters: Sequence[str], *, fine_tuned: bool = False) -> Path:
    """A head that prefers completions whose embedding has a large first coordinate; `fine_tuned`: with an encoder of
    its own."""
    embedder = shared_embedder(PACKAGED, "cpu")
    size = BLOCKS * embedder.dimension
    weight = np.zeros((1, size))
    weight[0, embedder.dimension] = 4.0
    tensors = {
        "mean": np.zeros(size),
        "std": np.ones(size),
        "output.weight": weight,
        "output.bias": np.zeros(1),
    }
    card = ModelCard(
        name="tiny",
        version="",
        data=DataCard(
            path="records.jsonl", sha256="", half="all", split_seed=0, counts={}, origins=(), licences=(),
            cluster_digests=cluster_digests(clusters),
        ),
        encoder=EncoderCard(name=PACKAGED, sha256="", fine_tuned=False, licence="", max_tokens=256),
        objective={"type": "pairwise"},
        confounders="ignore",
        nuisance={},
        best_step=1,
        validation={},
        reference_error=0.0,
    )  # fmt: skip
    config = ModelConfig(
        encoder=PACKAGED,
        encoder_sha256=embedder.sha256,
        fine_tuned=fine_tuned,
        temperature=0.5,
        reference=(0.0,),
    )
    save_model(path, config, tensors, card, embedder.model if fine_tuned else None)
    return path
