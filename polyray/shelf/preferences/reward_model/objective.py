"""One batch and its loss; validation. The formulas are algorithms/preference.py.

The rows of batch s are a slice of permutations of all rows, one per epoch, that follow from the seed. Dropout masks
are drawn for the whole batch and sliced, so that they are the same however many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from polyray.algorithms.preference import bradley_terry_loss, squared_loss
from polyray.config.reward_model import TrainRewardConfig
from polyray.seeds import sample_seed
from polyray.shelf.preferences.reward_model.data import Rows, TrainingData
from polyray.shelf.preferences.reward_model.network import Network


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step, or a share of them; weights are shares of the whole step's weight.

    Example:
        batch_rows(data.train, config, step=0).of_rank(0, world_size=2)
    """

    pairs_B2: np.ndarray
    pair_weight_B: np.ndarray
    items_R: np.ndarray
    target_R: np.ndarray
    item_weight_R: np.ndarray
    pair_place_B: np.ndarray
    """Position of each pair in the whole batch."""
    item_place_R: np.ndarray
    whole: tuple[int, int]
    """Pairs and items of the whole batch."""
    step: int

    def of_rank(self, rank: int, world_size: int) -> Batch:
        """Every world_size-th row."""
        return self._sliced(slice(rank, None, world_size))

    def micro_batches(self, size: int) -> Iterator[Batch]:
        """Parts of at most `size` pairs and `size` items."""
        for start in range(0, max(len(self.pairs_B2), len(self.items_R)), size):
            yield self._sliced(slice(start, start + size))

    def _sliced(self, rows: slice) -> Batch:
        pairs = ("pairs_B2", "pair_weight_B", "pair_place_B")
        items = ("items_R", "target_R", "item_weight_R", "item_place_R")
        return replace(self, **{name: getattr(self, name)[rows] for name in (*pairs, *items)})


def batch_rows(rows: Rows, config: TrainRewardConfig, step: int) -> Batch:
    """The whole batch of step `step`, from 0."""
    kind, size = config.objective.type, config.rows_per_step
    pairs = _drawn(len(rows.pairs_P2), size, step, config.seed, 0) if kind != "regression" else _NONE
    items = _drawn(len(rows.items_N), size, step, config.seed, 1) if kind != "pairwise" else _NONE
    return Batch(
        pairs_B2=rows.pairs_P2[pairs],
        pair_weight_B=_shares(rows.pair_weight_P[pairs]),
        items_R=rows.items_N[items],
        target_R=rows.target_N[items],
        item_weight_R=_shares(rows.target_weight_N[items]),
        pair_place_B=np.arange(len(pairs)),
        item_place_R=np.arange(len(items)),
        whole=(len(pairs), len(items)),
        step=step,
    )


_NONE = np.zeros(0, dtype=np.int64)


def _drawn(num_rows: int, size: int, step: int, seed: int, stream: int) -> np.ndarray:
    """Places step * size ... of the endless sequence of permutations."""
    size = min(size, num_rows)
    places = np.arange(step * size, (step + 1) * size)
    epochs = places // num_rows
    orders = {
        epoch: np.random.default_rng([seed, stream, int(epoch)]).permutation(num_rows)
        for epoch in np.unique(epochs)
    }
    return np.array([orders[epoch][place % num_rows] for epoch, place in zip(epochs, places, strict=True)])


def _shares(weights: np.ndarray) -> np.ndarray:
    total = float(weights.sum())
    return weights / total if total > 0 else weights


def batch_losses(
    network: Network, data: TrainingData, batch: Batch, config: TrainRewardConfig
) -> dict[str, Tensor]:
    """pair_loss, regression_loss or both, differentiable, of this part of a batch."""
    num_pairs = len(batch.pairs_B2)
    items = np.concatenate([batch.pairs_B2[:, 0], batch.pairs_B2[:, 1], batch.items_R])
    device = network.head.mean.device
    items_M = torch.from_numpy(items).to(device)
    keep_inputs, keep_hidden = _masks(network, batch, config)
    features_MF = network.features(items_M, network.embeddings_TD)
    raw_M = network.head(features_MF, keep_inputs, keep_hidden) + network.nuisance_of(items_M)
    better_B, worse_B, single_R = raw_M.split([num_pairs, num_pairs, len(batch.items_R)])

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device=device, dtype=torch.float32)

    losses: dict[str, Tensor] = {}
    if batch.whole[0]:
        losses["pair_loss"] = bradley_terry_loss(better_B - worse_B, tensor(batch.pair_weight_B))
    if batch.whole[1]:
        losses["regression_loss"] = squared_loss(
            network.predicted(single_R), tensor(batch.target_R), tensor(batch.item_weight_R)
        )
    return losses


def _masks(network: Network, batch: Batch, config: TrainRewardConfig) -> tuple[Tensor | None, Tensor | None]:
    """Dropout masks of the slots better, worse, single of this part, out of those of the whole batch."""
    num_pairs, num_items = batch.whole
    places = np.concatenate(
        [batch.pair_place_B, num_pairs + batch.pair_place_B, 2 * num_pairs + batch.item_place_R]
    )
    generator = torch.Generator().manual_seed(sample_seed(config.seed, f"dropout-{batch.step}", 0))
    masks: list[Tensor | None] = []
    for share, width in (
        (config.head.input_dropout, network.head.mean.numel()),
        (config.head.dropout, config.head.width),
    ):
        if share == 0 or width == 0:
            masks.append(None)
            continue
        drawn = torch.rand(2 * num_pairs + num_items, width, generator=generator)
        kept = (drawn[torch.from_numpy(places)] >= share).float() / (1 - share)
        masks.append(kept.to(network.head.mean.device))
    return masks[0], masks[1]


def validation_metrics(
    network: Network, data: TrainingData, embeddings_TD: Tensor, config: TrainRewardConfig
) -> dict[str, float]:
    """eval_loss (the objective, with age and position as in training) and eval_accuracy of pairs."""
    rows, kind = data.validation, config.objective.type
    items = np.concatenate([rows.pairs_P2.T.ravel(), rows.items_N])
    with torch.no_grad():
        raw_M = network.all_raw(embeddings_TD, items)
        seen_M = raw_M + network.nuisance_of(torch.from_numpy(items).to(raw_M.device))
    num_pairs = len(rows.pairs_P2)
    loss = 0.0
    if kind != "regression":
        difference = seen_M[:num_pairs] - seen_M[num_pairs : 2 * num_pairs]
        loss += float(
            bradley_terry_loss(difference.cpu().double(), torch.from_numpy(_shares(rows.pair_weight_P)))
        )
    if kind != "pairwise":
        weight = torch.from_numpy(_shares(rows.target_weight_N))
        with torch.no_grad():
            predicted = network.predicted(seen_M[2 * num_pairs :]).cpu().double()
        loss += float(squared_loss(predicted, torch.from_numpy(rows.target_N), weight))
    better, worse = raw_M[:num_pairs], raw_M[num_pairs : 2 * num_pairs]
    accuracy = float((better > worse).double().mean() + (better == worse).double().mean() / 2)
    return {"eval_loss": loss, "eval_accuracy": accuracy}
