"""Records or preference pairs -> the validated part, its pairs, and the texts for fitting.

Fitted values (directions and scales of baselines, a language model) never see the validated part. A file
without parts is split here, by cluster: training data of the models is for fitting, or a share of the
clusters if they have seen none. Called by pipeline.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.reward_validation import ValidationDataSpec
from polyray.errors import DataError
from polyray.metrics.pairwise import Pairs, within_group_pairs
from polyray.shelf.preferences.engagement import EngagementRecord, PreferencePair, data_sha256, read_records

Seen = Callable[[str], bool]
MAX_PAIRS_PER_PROMPT = 500
"""Of a prompt with more, so many are drawn."""
FIT_SHARE = 0.2
"""Share of the clusters of a file without parts that is for directions, scales and the language model."""


@dataclass(frozen=True)
class Texts:
    """Records as columns.

    Example:
        Texts(records=(EngagementRecord(...), ...), pairs=Pairs(...))
    """

    records: tuple[EngagementRecord, ...]
    pairs: Pairs
    """Positions in `records`; each pair within one prompt_id."""

    @cached_property
    def prompts(self) -> list[str]:
        """[N] what was answered."""
        return [record.prompt for record in self.records]

    @cached_property
    def completions(self) -> list[str]:
        """[N]."""
        return [record.completion for record in self.records]

    @cached_property
    def engagement_N(self) -> np.ndarray:
        """Engagement on the data set's own scale."""
        return np.array([record.engagement for record in self.records], dtype=np.float64)

    @cached_property
    def prompt_ids_N(self) -> np.ndarray:
        """Prompt of each completion; only completions of one prompt are compared."""
        return np.array([record.prompt_id for record in self.records])

    @cached_property
    def clusters_N(self) -> np.ndarray:
        """The unit of statistics."""
        return np.array([record.cluster_id for record in self.records])

    def subset(self, keep_N: np.ndarray) -> Texts:
        """The records where `keep_N` is True, and the pairs between them."""
        place_N = np.cumsum(keep_N) - 1
        pairs = self.pairs
        kept_M = keep_N[pairs.better_M] & keep_N[pairs.worse_M]
        records = tuple(record for record, keep in zip(self.records, keep_N, strict=True) if keep)
        better, worse = place_N[pairs.better_M[kept_M]], place_N[pairs.worse_M[kept_M]]
        return Texts(records, Pairs(better, worse, pairs.gaps_M[kept_M], pairs.num_left_out))

    @property
    def clusters_M(self) -> np.ndarray:
        """Cluster of each pair."""
        return self.clusters_N[self.pairs.better_M]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class HeldOut:
    """The validated part, and the parts for fitting.

    Example:
        HeldOut(validated=Texts(...), train=Texts(...), tuning=Texts(...), sha256="9f86...", part="test")
    """

    validated: Texts
    train: Texts | None
    """Part for scorers that learn from texts; None without such a part."""
    tuning: Texts | None
    """Part for directions and scales: the validation part, or the train part if there is none."""
    sha256: str
    """sha256 of the files."""
    part: str
    """Validated part, in words."""

    @property
    def fit(self) -> list[Texts]:
        """All parts for fitting, each once."""
        parts = [part for part in (self.train, self.tuning) if part is not None]
        return parts[:1] if len(parts) == 2 and parts[0] is parts[1] else parts


def read_held_out(spec: ValidationDataSpec, seed: int, seen: Seen = lambda cluster_id: False) -> HeldOut:
    """Read `spec.path`. Raises DataError if nothing can be compared or a cluster is in two parts.

    `seen` says whether a model was trained on a cluster; it decides only about files without parts.
    """
    path = Path(spec.path)
    records = as_records(read_records(path))
    by_part, part = _parts(records, spec, seed, seen)
    validated = _texts(by_part.pop("validated"), spec, seed)
    if not len(validated.pairs):
        raise DataError(
            f"{path}: none of {len(validated)} records has a partner under the same prompt_id with engagement "
            f"that differs by data.min_gap={spec.min_gap} or more; lower it, or give more data"
        )
    if len(set(validated.clusters_M)) < 2:
        raise DataError(
            f"{path}: all {len(validated.pairs)} pairs are in one cluster, and intervals and tests need several "
            "clusters; give data of at least two (threads, stories)"
        )
    train = _texts(by_part["train"], spec, seed) if by_part.get("train") else None
    validation = _texts(by_part["validation"], spec, seed) if by_part.get("validation") else None
    return HeldOut(
        validated=validated,
        train=train if train is not None else validation,
        tuning=validation if validation is not None else train,
        sha256=data_sha256(path),
        part=part,
    )


def as_records(rows: Sequence[EngagementRecord] | Sequence[PreferencePair]) -> list[EngagementRecord]:
    """Records as they are; a preference pair becomes two that can be compared with each other only."""
    found: list[EngagementRecord] = []
    for number, row in enumerate(rows):
        if isinstance(row, EngagementRecord):
            found.append(row)
            continue
        shared: dict[str, Any] = {
            "prompt": row.prompt,
            "prompt_id": f"pair-{number}",
            "cluster_id": row.cluster_id or row.prompt_id or _digest(row.prompt),
            "part": row.part,
        }
        sides = (("chosen", row.chosen, row.gap), ("rejected", row.rejected, 0.0))
        # Without checks, which the pair has passed: a record has no blank completion, a rejected one may be blank.
        found += [
            EngagementRecord.model_construct(
                record_id=f"{number}-{side}", completion=text, engagement=value, **shared
            )
            for side, text, value in sides
        ]
    return found


def _parts(
    records: Sequence[EngagementRecord], spec: ValidationDataSpec, seed: int, seen: Seen
) -> tuple[dict[str, list[EngagementRecord]], str]:
    """The records under "validated", and of "train" and "validation" those that are not; what is validated."""
    if not any(record.part is not None for record in records):
        return _split(records, spec, seed, seen)
    unplaced = sum(record.part is None for record in records)
    if unplaced:
        raise DataError(
            f"{spec.path}: {unplaced} of {len(records)} records name no part; give all of them one, or none"
        )
    owner: dict[str, str | None] = {}
    for record in records:
        if owner.setdefault(record.cluster_id, record.part) != record.part:
            raise DataError(
                f"{spec.path}: cluster {record.cluster_id!r} is in {owner[record.cluster_id]} and in "
                f"{record.part}; held-out data must not share a cluster with training data: split by "
                "cluster (polyray curate data does)"
            )
    found: dict[str, list[EngagementRecord]] = {}
    for record in records:
        found.setdefault("validated" if record.part == spec.part else str(record.part), []).append(record)
    if "validated" not in found:
        raise DataError(f"{spec.path}: no record has part {spec.part!r}; there are {', '.join(found)}")
    return found, spec.part


def _split(
    records: Sequence[EngagementRecord], spec: ValidationDataSpec, seed: int, seen: Seen
) -> tuple[dict[str, list[EngagementRecord]], str]:
    """Clusters that a model has seen are for fitting, or a share of all, drawn by hash; of one cluster none."""
    clusters = {record.cluster_id for record in records}
    for_fit = {name for name in clusters if seen(name)}
    said = "clusters that no model was trained on (the file names no parts)"
    if not for_fit:
        ordered = sorted(clusters, key=lambda name: _digest(f"{seed}:{name}"))
        for_fit = set(ordered[: int(len(ordered) * FIT_SHARE)])
        said = f"{1 - FIT_SHARE:.0%} of the clusters (the file names no parts)"
    found: dict[str, list[EngagementRecord]] = {"validated": [], "train": []}
    for record in records:
        found["train" if record.cluster_id in for_fit else "validated"].append(record)
    if not found["validated"]:
        raise DataError(
            f"{spec.path}: the models were trained on all of its {len(clusters)} clusters; validate them on others "
            "(data.test_share of polyray train_reward leaves some out)"
        )
    return found, said


def _texts(records: Sequence[EngagementRecord], spec: ValidationDataSpec, seed: int) -> Texts:
    engagement = [record.engagement for record in records]
    labels = [record.prompt_id for record in records]
    pairs = within_group_pairs(engagement, labels, spec.min_gap, MAX_PAIRS_PER_PROMPT, seed)
    texts = [record.completion for record in records]
    # Equal texts under one prompt: a scorer of texts cannot tell them apart.
    differ = np.array(
        [texts[a] != texts[b] for a, b in zip(pairs.better_M, pairs.worse_M, strict=True)], bool
    )
    kept = Pairs(pairs.better_M[differ], pairs.worse_M[differ], pairs.gaps_M[differ], pairs.num_left_out)
    return Texts(tuple(records), kept)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
