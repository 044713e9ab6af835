"""Results about attention and hidden states, with intervals over prompts: the contents of mechanistic.json.

Attention is compared on the same tokens, the completions of the reference. Hidden states are each policy's own, at
its own completions, because the question is which solutions it tells apart when it is diverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polyray.errors import DataError
from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.shelf.research.mechanistic.attention import pattern_distance, relative_entropy_of_rows
from polyray.shelf.research.mechanistic.clusters import cluster_states
from polyray.shelf.research.mechanistic.inputs import Material, Sampled
from polyray.shelf.research.mechanistic.policies import Policies, Row, Seen

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
"""(what, done, of all)."""

RESAMPLES = 2000
CONFIDENCE = 0.95
CLUSTERING = ("count", "silhouette", "stability", "agreement")
"""Measures of clusters.Clustering."""


def mechanistic_results(
    material: Material,
    reference: str,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Measure attention and hidden states of all models, with intervals over prompts.

    `reference`: the model with the completions that all read, and with the attention for comparison. `layers`: layers
    with the hidden states to group (0: the embeddings); None: four, evenly spread, the last among them.

    Raises DataError for a layer that the model does not have.
    """
    answers = material.answers[reference]
    if not any(sampled.rows for sampled in answers):
        raise DataError(
            f"{reference!r} answered nothing to all {len(answers)} prompts; name another --reference"
        )
    policies = Policies(material.model_dir, material.adapters)
    bootstrap = ClusterBootstrap.draw([str(n) for n in range(len(answers))], RESAMPLES, CONFIDENCE, seed)
    attention: list[dict[str, Any]] = []
    by_layer: list[dict[str, Any]] = []
    for name, (entropy, distance) in _attention(policies, material, reference, progress).items():
        attention += _by_head(name, entropy, distance)
        by_layer += _by_layer(name, bootstrap, {"entropy": entropy.mean(2), "distance": distance.mean(2)})
    clusters: list[dict[str, Any]] = []
    for number, name in enumerate(material.adapters):
        progress("grouping hidden states", number, len(material.adapters))
        found, layers = _clusters(policies, name, material.answers[name], layers, seed)
        clusters += _by_layer(name, bootstrap, found, layers)
    return {
        "reference": reference,
        "models": list(material.adapters),
        "prompts": len(answers),
        "samples": max(len(sampled.rows) for sampled in answers),
        "confidence": CONFIDENCE,
        "layers": list(layers or ()),
        "attention": attention,
        "attention_by_layer": by_layer,
        "clusters": clusters,
    }


def _attention(
    policies: Policies, material: Material, reference: str, progress: Progress
) -> dict[str, tuple[Floats, Floats]]:
    """Model -> relative entropies and distances to the reference, both [prompts, layers, heads]; NaN for a prompt
    without completions."""
    found: dict[str, tuple[list[Floats], list[Floats]]] = {name: ([], []) for name in material.adapters}
    answers = material.answers[reference]
    for number, sampled in enumerate(answers):
        progress("reading completions", number, len(answers))
        for name, (entropy, distance) in _of_prompt(policies, list(found), reference, sampled).items():
            found[name][0].append(entropy)
            found[name][1].append(distance)
    return {
        name: (_stacked(entropies), _stacked(distances)) for name, (entropies, distances) in found.items()
    }


def _of_prompt(
    policies: Policies, names: Sequence[str], reference: str, sampled: Sampled
) -> dict[str, tuple[Floats, Floats]]:
    """Means over completions, [layers, heads] each."""
    sums: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in names}
    batch = policies.batch_rows(max(map(len, sampled.rows), default=1))
    for start in range(0, len(sampled.rows), batch):
        rows = sampled.rows[start : start + batch]
        of_reference = list(policies.look(reference, rows, attention=True))
        for name in names:
            seen = of_reference if name == reference else policies.look(name, rows, attention=True)
            for row, own, other in zip(rows, seen, of_reference, strict=True):
                sums[name].append(_compared(row, own, other))
    nothing = (np.full((1, 1), math.nan), np.full((1, 1), math.nan))
    return {
        name: tuple(np.mean(np.stack(part), axis=0) for part in zip(*pairs, strict=True))
        if pairs
        else nothing  # type: ignore[misc]
        for name, pairs in sums.items()
    }


def _compared(row: Row, own: Seen, other: Seen) -> tuple[Floats, Floats]:
    """Means over the completion's tokens, [layers, heads] each."""
    assert own.attention is not None and other.attention is not None
    visible = torch.arange(len(row.prompt_ids), len(row)) + 1
    entropy = relative_entropy_of_rows(own.attention, visible).mean(-1)
    return entropy.numpy(), pattern_distance(own.attention, other.attention).mean(-1).numpy()


def _stacked(values: Sequence[Floats]) -> Floats:
    shape = max((value.shape for value in values), default=(1, 1))
    return np.stack([np.broadcast_to(value, shape) for value in values])


def _clusters(
    policies: Policies, name: str, answers: Sequence[Sampled], layers: Sequence[int] | None, seed: int
) -> tuple[dict[str, Floats], list[int]]:
    """Measure -> [prompts, chosen layers], and which layers those are."""
    rows = [row for sampled in answers for row in sampled.rows]
    states = [seen.states.numpy().astype(np.float64) for seen in policies.look(name, rows, attention=False)]
    if not states:
        raise DataError(
            f"{name!r} answered nothing to all {len(answers)} prompts; there is nothing to look at"
        )
    chosen = _chosen_layers(layers, len(states[0]) - 1)
    values = {measure: np.full((len(answers), len(chosen)), math.nan) for measure in CLUSTERING}
    start = 0
    for number, sampled in enumerate(answers):
        own = states[start : start + len(sampled.rows)]
        start += len(own)
        for place, layer in enumerate(chosen if own else ()):
            found = asdict(cluster_states(np.stack([state[layer] for state in own]), sampled.classes, seed))
            for measure in CLUSTERING:
                values[measure][number, place] = found[measure]
    return values, chosen


def _chosen_layers(layers: Sequence[int] | None, last: int) -> list[int]:
    if layers is None:
        return sorted({round(last * part / 4) for part in (1, 2, 3, 4)})
    wrong = [layer for layer in layers if not 0 <= layer <= last]
    if wrong:
        raise DataError(f"the model has no layer {wrong[0]}; layers are 0 (the embeddings) to {last}")
    return sorted(set(layers))


def _by_head(name: str, entropy: Floats, distance: Floats) -> list[dict[str, Any]]:
    means = np.nanmean(entropy, axis=0), np.nanmean(distance, axis=0)
    return [
        {
            "model": name,
            "layer": layer + 1,
            "head": head,
            "entropy": float(means[0][layer, head]),
            "distance": float(means[1][layer, head]),
        }
        for layer, head in np.ndindex(*means[0].shape)
    ]


def _by_layer(
    name: str, bootstrap: ClusterBootstrap, values: Mapping[str, Floats], layers: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """One entry per layer: of every measure its mean over prompts, the bounds, and how many prompts have it."""
    places = range(next(iter(values.values())).shape[1])
    entries: list[dict[str, Any]] = [
        {"model": name, "layer": layers[place] if layers else place + 1} for place in places
    ]
    for measure, columns in values.items():
        bounds = bootstrap.intervals(columns)
        for place, entry in enumerate(entries):
            value, low, high = (None if np.isnan(bound[place]) else float(bound[place]) for bound in bounds)
            known = int((~np.isnan(columns[:, place])).sum())
            entry |= {
                measure: value,
                f"{measure}_low": low,
                f"{measure}_high": high,
                f"{measure}_prompts": known,
            }
    return entries
