"""The steps of curation in order, and the numbers about them. No files are written here; called by polyray curate.

    review drops -> rules on one record -> duplicates -> tokens -> clusters -> best N -> parts and phases

A record that a person keeps passes every step; one that a person drops goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyray.config.curate import CurateConfig
from polyray.data.splits import seeded_rank
from polyray.errors import DataError, boundary
from polyray.shelf.preferences.curation import statistics
from polyray.shelf.preferences.curation.duplicates import clusters, duplicates
from polyray.shelf.preferences.curation.filters import build_rules
from polyray.shelf.preferences.curation.partition import STRATA, assign_parts
from polyray.shelf.preferences.curation.review import Review, check_known
from polyray.shelf.preferences.curation.selection import Embed, best_first, diversity, select
from polyray.shelf.preferences.curation.tokens import TokenLengths
from polyray.shelf.preferences.engagement import EngagementRecord, Imported

Objection = tuple[str, str]
"""(reason, detail)."""
Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts -> [N, D] embeddings of unit length."""
CountTokens = Callable[[Sequence[EngagementRecord]], Mapping[str, TokenLengths]]
Progress = Callable[[str, int], None]
"""(step, records that reach it)."""
REVIEWED, TOO_MANY_TOKENS, NOT_SELECTED = "review", "too many tokens", "not among the best"


@dataclass(frozen=True, slots=True)
class Tools:
    """Functions that need a model, built by the caller if the configuration asks for them.

    Example:
        Tools(encode=Embedder("packaged").encode, count_tokens=None)
    """

    encode: Encode | None = None
    count_tokens: CountTokens | None = None


@dataclass(slots=True)
class Curated:
    """The outcome.

    Example:
        curate(config, import_source(config.source), {}, Tools()).statistics["kept"]  # 36
    """

    kept: list[EngagementRecord] = field(default_factory=list)
    """Kept records with cluster, part and phase, sorted by record_id."""
    dropped: dict[str, Objection] = field(default_factory=dict)
    """record_id -> why."""
    statistics: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, TokenLengths] = field(default_factory=dict)


def curate(
    config: CurateConfig,
    imported: Imported,
    reviews: Mapping[str, Review],
    tools: Tools,
    progress: Progress = lambda step, number: None,
) -> Curated:
    """Runs every step. Raises DataError where nothing is left, or too little to divide."""
    return _Run(config, imported, reviews, tools, progress).result()


class _Run:
    """One curation: what is still in, what went and why."""

    def __init__(
        self,
        config: CurateConfig,
        imported: Imported,
        reviews: Mapping[str, Review],
        tools: Tools,
        progress: Progress,
    ) -> None:
        self._config, self._imported, self._reviews = config, imported, reviews
        self._tools, self._progress = tools, progress
        self._records = list(imported.records)
        self._protected = {name for name, review in reviews.items() if review.decision == "keep"}
        self._rescued: dict[str, Objection] = {}
        self._out = Curated()
        self._steps: list[dict[str, Any]] = []

    def result(self) -> Curated:
        check_known(self._reviews, {record.record_id for record in self._records})
        numbers = self._out.statistics
        numbers["source"] = self._source_numbers()
        self._step("review", self._review)
        self._step("filters", self._filter)
        self._step("duplicates", self._deduplicate)
        self._step("tokens", self._count_tokens)
        self._join_clusters()
        self._step("selection", self._select)
        self._divide()
        numbers["steps"] = self._steps
        numbers["dropped"] = statistics.counted(reason for reason, _ in self._out.dropped.values())
        numbers["kept"] = len(self._out.kept)
        numbers["review"] = self._review_numbers()
        numbers["groups"] = statistics.by_group(self._out.kept, statistics.group_numbers)
        numbers["balance"] = statistics.balance(self._out.kept, STRATA)
        for name in ("origin", "licence", "kind"):
            numbers[f"{name}s"] = statistics.counted(getattr(record, name) for record in self._out.kept)
        return self._out

    def _step(self, name: str, find: Callable[[], Mapping[str, Objection]]) -> None:
        self._progress(name, len(self._records))
        before = len(self._records)
        objections = find()
        self._rescued |= {key: why for key, why in objections.items() if key in self._protected}
        gone = {key: why for key, why in objections.items() if key not in self._protected}
        self._out.dropped |= gone
        self._records = [record for record in self._records if record.record_id not in gone]
        self._steps.append({"step": name, "in": before, "dropped": len(gone), "out": len(self._records)})
        if not self._records:
            reasons = statistics.counted(reason for reason, _ in self._out.dropped.values())
            raise DataError(
                f"nothing is left of {before} records after {name} (dropped: {reasons}); loosen it"
            )

    def _review(self) -> dict[str, Objection]:
        return {
            name: (REVIEWED, review.note or "dropped by hand")
            for name, review in self._reviews.items()
            if review.decision == "drop"
        }

    def _filter(self) -> dict[str, Objection]:
        rules = build_rules(self._config.filters)
        found = {record.record_id: rules.objection(record) for record in self._records}
        if rules.language is not None:
            ordered = sorted(rules.language.counts.items(), key=lambda item: (-item[1], item[0]))
            self._out.statistics["languages"] = dict(ordered)
        return {name: objection for name, objection in found.items() if objection is not None}

    def _deduplicate(self) -> dict[str, Objection]:
        spec = self._config.duplicates
        if not spec.exact and spec.near is None:
            return {}
        return duplicates(self._records, spec, self._protected)

    def _count_tokens(self) -> dict[str, Objection]:
        spec = self._config.model
        if spec is None or self._tools.count_tokens is None:
            return {}
        lengths = dict(self._tools.count_tokens(self._records))
        self._out.tokens = lengths
        long = {name: found.total for name, found in lengths.items() if found.total > spec.max_tokens}
        self._out.statistics["tokens"] = {
            "prompt": statistics.distribution(found.prompt for found in lengths.values()),
            "total": statistics.distribution(found.total for found in lengths.values()),
            "max_tokens": spec.max_tokens,
            "above": len(long),
        }
        if spec.too_long == "count":
            return {}
        return {name: (TOO_MANY_TOKENS, f"{n} tokens, above {spec.max_tokens}") for name, n in long.items()}

    def _join_clusters(self) -> None:
        self._progress("clusters", len(self._records))
        before = {record.record_id: record.cluster_id for record in self._records}
        joined = clusters(self._records, self._config.duplicates.near)
        self._out.statistics["clusters"] = statistics.cluster_numbers(before, joined)
        self._records = [
            record.model_copy(update={"cluster_id": joined[record.record_id]}) for record in self._records
        ]

    def _select(self) -> dict[str, Objection]:
        spec = self._config.select
        if spec is None or self._tools.encode is None:
            return {}
        texts = [record.completion for record in self._records]
        encode = self._tools.encode

        def embed(positions: Sequence[int]) -> np.ndarray:
            return encode([texts[at] for at in positions])

        wanted = [at for at, record in enumerate(self._records) if record.record_id in self._protected]
        chosen = select(self._records, embed, spec, wanted)
        self._out.statistics["selection"] = _selection_numbers(self._records, embed, chosen, self._config)
        taken = set(chosen)
        return {
            record.record_id: (NOT_SELECTED, f"engagement {record.engagement:.6g}")
            for at, record in enumerate(self._records)
            if at not in taken
        }

    def _divide(self) -> None:
        self._progress("parts", len(self._records))
        with boundary(DataError, f"parts, of {len(self._records)} records"):
            place = assign_parts(self._records, self._config.parts, self._config.seed)
        for record in sorted(self._records, key=lambda record: record.record_id):
            part, phase = place[record.cluster_id]
            self._out.kept.append(record.model_copy(update={"part": part, "phase": phase}))

    def _source_numbers(self) -> dict[str, Any]:
        return {
            "type": self._config.source.type,
            "rows": self._imported.num_rows,
            "left_out": dict(self._imported.left_out),
            "records": len(self._records),
            "prompts": len({record.prompt_id for record in self._records}),
            "clusters": len({record.cluster_id for record in self._records}),
            "notes": list(self._imported.notes),
            "records_sha256": statistics.records_sha256(self._records),
            "engagement": statistics.distribution(record.engagement for record in self._records),
        }

    def _review_numbers(self) -> dict[str, int]:
        decisions = [review.decision for review in self._reviews.values()]
        return {
            "keep": decisions.count("keep"),
            "drop": decisions.count("drop"),
            "notes": sum(bool(review.note) for review in self._reviews.values()),
            "kept_against_a_rule": len(self._rescued),
        }


def _selection_numbers(
    records: Sequence[EngagementRecord], embed: Embed, chosen: Sequence[int], config: CurateConfig
) -> dict[str, Any]:
    """The chosen against as many with the most engagement, and against as many at random."""
    order = best_first(records)
    drawn = sorted(order, key=lambda at: seeded_rank(config.seed, records[at].record_id))
    sets = {"chosen": list(chosen), "most_engagement": order[: len(chosen)], "random": drawn[: len(chosen)]}
    numbers: dict[str, Any] = {
        "wanted": config.select.count if config.select is not None else 0,
        "candidates": len(records),
        "candidates_mean_engagement": float(np.mean([record.engagement for record in records])),
    }
    for name, positions in sets.items():
        mean = float(np.mean([records[at].engagement for at in positions])) if positions else None
        numbers[name] = {"records": len(positions), "mean_engagement": mean, **diversity(embed(positions))}
    return numbers
