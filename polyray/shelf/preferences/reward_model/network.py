"""Trained network: encoder, head, and in training only the terms of age and position and the link to targets.

    raw = head(features of prompt and completion)            basis of scores
    raw + nuisance(age, position)                            compared in training
    exp(log_scale) * (raw + nuisance) + offset               regression's prediction beside the pairwise loss

The nuisance terms are linear in standardised values, so scoring without them means the mean age and position.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from polyray.config.learner import LearnerSpec
from polyray.config.reward_model import TrainRewardConfig
from polyray.models.embedder import Embedder
from polyray.runs.atomic import atomic_write_bytes
from polyray.shelf.preferences.reward_model.data import TrainingData
from polyray.shelf.preferences.reward_model.features import BLOCKS, explicit_features, text_features
from polyray.shelf.preferences.reward_model.head import EngagementHead

if TYPE_CHECKING:
    from polyray.launch.trainer import TrainWorker

EMBEDDINGS_FILE = "embeddings.safetensors"
NUISANCE_RATE = 10.0
"""Times the head's rate: a handful of weights of order 1 must be there before the head explains age by text."""


class Network:
    """The trained parts, and the rows of data that they work on."""

    def __init__(
        self, config: TrainRewardConfig, embedder: Embedder, data: TrainingData, device: torch.device
    ) -> None:
        names = config.head.features
        num_features = BLOCKS * embedder.dimension + len(names)
        self.embedder = embedder
        self.fine_tunes = config.encoder.fine_tune
        self.head = EngagementHead(num_features, config.head.width).to(device)
        self.nuisance = nn.Linear(data.confounders_IK.shape[1], 1, bias=False).to(device)
        nn.init.zeros_(self.nuisance.weight)
        self.link = nn.ParameterDict(
            {"log_scale": nn.Parameter(torch.zeros(())), "offset": nn.Parameter(torch.zeros(()))}
        ).to(device)
        self.nuisance.requires_grad_(config.confounders.mode == "model")
        self.link.requires_grad_(config.objective.type == "both")
        self.embedder.model.requires_grad_(self.fine_tunes)
        self.embeddings_TD: Tensor | None = None
        """Embeddings of all texts, if the encoder is frozen."""
        self._texts = data.texts
        self._prompt_I = torch.from_numpy(data.prompt_I).to(device)
        self._completion_I = torch.from_numpy(data.completion_I).to(device)
        self._confounders_IK = torch.from_numpy(data.confounders_IK).to(device)
        self._explicit_TX = torch.from_numpy(explicit_features(names, data.texts)).to(device)

    def modules(self) -> dict[str, nn.Module]:
        """Modules of a checkpoint, by name."""
        own: dict[str, nn.Module] = {"head": self.head, "nuisance": self.nuisance, "link": self.link}
        return {**own, "encoder": self.embedder.model} if self.fine_tunes else own

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters, by name."""
        return {
            f"{name}.{key}": parameter
            for name, module in self.modules().items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def parameters(self) -> list[nn.Parameter]:
        """Trained parameters, in a fixed order."""
        return list(self.named_parameters().values())

    def parameter_groups(self, learner: LearnerSpec, encoder_rate: float) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser: weight decay on the head, none on nuisance terms; the encoder at its
        own rate.
        """
        by_name = self.named_parameters()
        head = [p for name, p in by_name.items() if name.startswith("head.")]
        encoder = [p for name, p in by_name.items() if name.startswith("encoder.")]
        rest = [p for name, p in by_name.items() if name.startswith(("nuisance.", "link."))]
        groups = [
            {"params": head, "lr": learner.learning_rate, "weight_decay": learner.weight_decay},
            {"params": rest, "lr": NUISANCE_RATE * learner.learning_rate, "weight_decay": 0.0},
            {"params": encoder, "lr": encoder_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def features(self, items_M: Tensor, embeddings_TD: Tensor | None) -> Tensor:
        """[M, F]; without `embeddings_TD` the items' texts are embedded here, with gradients."""
        prompts, completions = self._prompt_I[items_M], self._completion_I[items_M]
        explicit = self._explicit_TX[completions]
        if embeddings_TD is None:
            used, place = torch.unique(torch.cat([prompts, completions]), return_inverse=True)
            embedded = self.embedder.encode_with_gradients([self._texts[at] for at in used.tolist()])
            first, second = embedded[place].split([len(prompts), len(completions)])
        else:
            first, second = embeddings_TD[prompts], embeddings_TD[completions]
        return text_features(first, second, explicit, torch.cat)

    def nuisance_of(self, items_M: Tensor) -> Tensor:
        """[M] what age and position add in training."""
        return self.nuisance(self._confounders_IK[items_M]).squeeze(-1)

    def predicted(self, raw_M: Tensor) -> Tensor:
        """[M] what regression compares with its targets."""
        return torch.exp(self.link["log_scale"]) * raw_M + self.link["offset"]

    def all_raw(self, embeddings_TD: Tensor, items_M: np.ndarray) -> Tensor:
        """[M] raw scores, without gradients, dropout, age and position."""
        with torch.no_grad():
            items = torch.from_numpy(items_M).to(embeddings_TD.device)
            return torch.cat([self.head(self.features(part, embeddings_TD)) for part in items.split(4096)])


def build_network(
    config: TrainRewardConfig, embedder: Embedder, data: TrainingData, run: TrainWorker
) -> Network:
    """Build the network, with inputs standardised by the training items, as the encoder is before training."""
    network = Network(config, embedder, data, run.device)
    embeddings = _stored_embeddings(network, data, run)
    items = np.unique(np.concatenate([data.train.pairs_P2.ravel(), data.train.items_N]))
    with torch.no_grad():
        network.head.standardise_by(network.features(torch.from_numpy(items).to(run.device), embeddings))
    if not config.encoder.fine_tune:
        network.embeddings_TD = embeddings
    return network


def embed_all(network: Network, texts: tuple[str, ...], run: TrainWorker) -> Tensor:
    """[T, D] of all texts; ranks divide the work. A frozen encoder has done it already."""
    if network.embeddings_TD is not None:
        return network.embeddings_TD
    total_TD = torch.zeros(len(texts), network.embedder.dimension)
    own = slice(run.rank, None, run.world_size)
    total_TD[own] = torch.from_numpy(network.embedder.encode(texts[own]))
    if run.world_size > 1:
        dist.all_reduce(total_TD)
    return total_TD.to(run.device)


def _stored_embeddings(network: Network, data: TrainingData, run: TrainWorker) -> Tensor:
    """Embeddings of this run's last start if texts and encoder are the same; else computed, and kept."""
    from safetensors import safe_open
    from safetensors.torch import save

    path = run.run_dir / EMBEDDINGS_FILE
    key = hashlib.sha256(
        "\0".join([network.embedder.sha256, *data.texts]).encode("utf-8", "replace")
    ).hexdigest()
    if _is_stored(path, key):
        with safe_open(path, "pt") as file:
            return file.get_tensor("embeddings").to(run.device)
    embeddings = embed_all(network, data.texts, run)
    if run.rank == 0:
        atomic_write_bytes(path, save({"embeddings": embeddings.cpu()}, metadata={"key": key}))
    return embeddings


def _is_stored(path: Path, key: str) -> bool:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return file.metadata().get("key") == key
    except SafetensorError:  # damaged: it is only a cache
        return False
