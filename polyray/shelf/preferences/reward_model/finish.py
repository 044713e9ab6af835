"""From a trained network to a model directory: temperature, reference, figures of validation, card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from torch import Tensor

from polyray.config.base import as_json
from polyray.config.reward_model import TrainRewardConfig
from polyray.metrics.preference import fitted_temperature
from polyray.shelf.preferences.reward_model.card import DataCard, EncoderCard, ModelCard, cluster_digests
from polyray.shelf.preferences.reward_model.data import CONFOUNDERS, TrainingData
from polyray.shelf.preferences.reward_model.model import (
    ModelConfig,
    licence_of,
    quantile_reference,
    save_model,
)
from polyray.shelf.preferences.reward_model.network import Network

if TYPE_CHECKING:
    from polyray.launch.trainer import TrainWorker


def write_model(
    run: TrainWorker, network: Network, data: TrainingData, embeddings_TD: Tensor, best_step: int
) -> str:
    """Writes run_dir/model; returns its version."""
    config, rows = run.config, data.validation
    pairs = rows.pairs_P2
    raw_P2 = network.all_raw(embeddings_TD, pairs.ravel()).cpu().numpy().astype(np.float64).reshape(-1, 2)
    temperature = fitted_temperature(raw_P2[:, 0] - raw_P2[:, 1])
    people = np.unique(np.concatenate([pairs.ravel(), rows.items_N]))
    raw_people = network.all_raw(embeddings_TD, people).cpu().numpy().astype(np.float64) / temperature
    reference, error = quantile_reference(raw_people)
    encoder = network.embedder
    model_config = ModelConfig(
        encoder=config.encoder.name
        if not Path(config.encoder.name).is_dir()
        else str(encoder.directory.resolve()),
        encoder_sha256=encoder.sha256,
        fine_tuned=config.encoder.fine_tune,
        features=config.head.features,
        temperature=temperature,
        reference=reference,
    )
    tensors = {name: value.detach().cpu().numpy() for name, value in network.head.state_dict().items()}
    metrics = pair_figures(raw_P2 / temperature, pairs, data)
    card = _card(config, data, network, best_step, {**metrics, "temperature": temperature}, error)
    fine_tuned = encoder.model if config.encoder.fine_tune else None
    return save_model(run.run_dir / "model", model_config, tensors, card, fine_tuned)


def pair_figures(raw_P2: np.ndarray, pairs_P2: np.ndarray, data: TrainingData) -> dict[str, float]:
    """Accuracy and calibrated loss on the validation pairs, and the accuracy of length alone; ties count half."""
    lengths = np.array([len(data.texts[at]) for at in data.completion_I], dtype=np.float64)[pairs_P2]
    difference = raw_P2[:, 0] - raw_P2[:, 1]
    return {
        "pairs": float(len(pairs_P2)),
        "accuracy": _accuracy(difference),
        "accuracy_of_length_alone": _accuracy(lengths[:, 0] - lengths[:, 1]),
        "log_loss": float(np.logaddexp(0, -difference).mean()),
        "mean_probability_of_the_better": float(expit(difference).mean()),
    }


def _accuracy(difference_P: np.ndarray) -> float:
    return float((difference_P > 0).mean() + (difference_P == 0).mean() / 2)


def _card(
    config: TrainRewardConfig,
    data: TrainingData,
    network: Network,
    best_step: int,
    metrics: dict[str, float],
    reference_error: float,
) -> ModelCard:
    source = config.data.source
    path = (
        config.data.path or (getattr(source, "path", None) or getattr(source, "name", "")) if source else ""
    )
    weights = network.nuisance.weight.detach().cpu().numpy()[0] / metrics["temperature"]
    is_modelled = config.confounders.mode == "model"
    return ModelCard(
        name=config.name,
        version="",
        data=DataCard(
            path=str(config.data.path or path),
            sha256=data.sha256,
            half=config.data.half,
            split_seed=config.data.split_seed,
            counts=dict(data.counts),
            origins=data.origins,
            licences=data.licences,
            cluster_digests=cluster_digests(data.clusters),
        ),
        encoder=EncoderCard(
            name=config.encoder.name,
            sha256=network.embedder.sha256,
            fine_tuned=config.encoder.fine_tune,
            licence=licence_of(config.encoder.name, config.encoder.licence),
            max_tokens=network.embedder.max_tokens,
        ),
        objective=as_json(config.objective),
        confounders=config.confounders.mode,
        nuisance=dict(zip(CONFOUNDERS, map(float, weights), strict=True)) if is_modelled else {},
        best_step=best_step,
        validation=metrics,
        reference_error=reference_error,
    )
