"""Rows that a model may see: rows of files as records, in parts, in halves. Called by data.py."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from polyray.config.reward_model import RewardDataSpec
from polyray.data.splits import seeded_rank, split_clusters
from polyray.errors import DataError
from polyray.shelf.preferences.engagement import (
    EngagementRecord,
    PreferencePair,
    data_sha256,
    import_records,
    read_records,
)

Half = Literal["train", "eval"]


def half_of(cluster_id: str, seed: int) -> Half:
    """Half of a cluster, one of two disjoint ones, by a hash of seed and name."""
    return "train" if seeded_rank(seed, f"half/{cluster_id}")[0] & 1 == 0 else "eval"


def read_parts(spec: RewardDataSpec) -> tuple[list[EngagementRecord], bool, int, str]:
    """(records with parts, whether they are sides of pairs, blank pairs left out, sha256)."""
    if spec.source is not None:
        rows: Sequence[EngagementRecord | PreferencePair] = import_records(spec.source)
        sha256 = hashlib.sha256("\n".join(r.model_dump_json() for r in rows).encode()).hexdigest()
    else:
        assert spec.path is not None
        rows = read_records(Path(spec.path))
        sha256 = data_sha256(Path(spec.path))
    explicit = isinstance(rows[0], PreferencePair)
    sides, num_blank = _records_of_pairs([row for row in rows if isinstance(row, PreferencePair)])
    records = sides if explicit else [row for row in rows if isinstance(row, EngagementRecord)]
    if any(record.part is None for record in records):
        if any(record.part is not None for record in records):
            raise DataError("some rows have a part and others have none; give it to all of them, or to none")
        try:
            part_of = split_clusters(
                (record.cluster_id for record in records),
                test_share=spec.test_share,
                validation_share=spec.validation_share,
                seed=spec.split_seed,
            )
        except ValueError as error:
            raise DataError(f"{spec.path or 'data.source'}: {error}") from None
        records = [record.model_copy(update={"part": part_of[record.cluster_id]}) for record in records]
    return records, explicit, num_blank, sha256


def _records_of_pairs(pairs: Sequence[PreferencePair]) -> tuple[list[EngagementRecord], int]:
    """A record for each side of a pair, and how many pairs with a blank side there were."""
    records: list[EngagementRecord] = []
    num_blank = 0
    for number, pair in enumerate(pairs):
        if not pair.chosen.strip() or not pair.rejected.strip():
            num_blank += 1
            continue
        records += [
            EngagementRecord(
                record_id=f"{number}/{side}",
                prompt=pair.prompt,
                completion=text,
                engagement=engagement,
                prompt_id=pair.prompt_id or f"{number}",
                cluster_id=pair.cluster_id or f"{number}",
                part=pair.part,
            )
            for side, text, engagement in (
                ("chosen", pair.chosen, pair.gap),
                ("rejected", pair.rejected, 0.0),
            )
        ]
    return records, num_blank


def is_used(record: EngagementRecord, spec: RewardDataSpec) -> bool:
    if record.part == "test" or (
        spec.half != "all" and half_of(record.cluster_id, spec.split_seed) != spec.half
    ):
        return False
    return record.part != "train" or spec.phase is None or record.phase in (None, spec.phase)
