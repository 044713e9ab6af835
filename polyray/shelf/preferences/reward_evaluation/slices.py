"""Pairwise accuracy on parts of the pairs: where a scorer that is good on average is not.

A slice is a property of pairs (kind, lengths, gap, order, age, year ...); what the data does not have, or what
does not vary, gives no slice. Slices of one property do not overlap. Called by pipeline.py.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.shelf.preferences.reward_evaluation.held_out import Texts
from polyray.shelf.preferences.reward_evaluation.measures import (
    LENGTH_MATCH,
    Measured,
    Settings,
    length_matched,
)
from polyray.shelf.preferences.reward_evaluation.scorers import text_lengths

BETTER_LONGER, BETTER_SHORTER = "the better one is longer", "the better one is shorter"
_THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class Slice:
    """A subset of the pairs.

    Example:
        Slice(property="engagement gap", value="high (8 to 120)", members_M=np.array([True, False]))
    """

    property: str
    value: str
    members_M: np.ndarray
    by_outcome: bool = False
    """Whether the better one of a pair defines the slice: a scorer that uses this property is wrong there by
    construction.
    """


def pair_slices(texts: Texts) -> list[Slice]:
    """All slices that the data allows, property by property."""
    better, worse = texts.pairs.better_M, texts.pairs.worse_M
    lengths, prompt_lengths = text_lengths(texts.completions), text_lengths(texts.prompts)
    found = [
        *_by_label("kind", _labels(texts, "kind")),
        *_by_third("length of the two", (lengths[better] + lengths[worse]) / 2, "characters"),
        *_length_order(lengths[better], lengths[worse], length_matched(texts)),
        *_by_third("length of the prompt", prompt_lengths[better], "characters"),
        *_by_third("engagement gap", texts.pairs.gaps_M, ""),
    ]
    for name, title, unit in (("position", "position among replies", ""), ("age_s", "age of the two", "s")):
        values = _numbers(texts, name)
        found += _by_half(title, (values[better] + values[worse]) / 2, unit)
    position = _numbers(texts, "position")
    found += _order(position[better], position[worse])
    impressions = _numbers(texts, "impressions")
    found += _by_third(
        "impressions, the fewer of the two", np.minimum(impressions[better], impressions[worse]), ""
    )
    return [*found, *_by_label("year", _labels(texts, "created_at", 4))]


def slice_rows(
    slices: Sequence[Slice], measured: Mapping[str, Measured], texts: Texts, settings: Settings
) -> list[dict[str, Any]]:
    """One row per slice and scorer: n, accuracy, interval."""
    clusters_M = texts.clusters_M
    rows = []
    for part in slices:
        chosen = part.members_M
        counts = {"n_pairs": int(chosen.sum()), "n_clusters": len(np.unique(clusters_M[chosen]))}
        place = {"property": part.property, "slice": part.value, "by_outcome": part.by_outcome}
        columns = [found.hits_M[chosen] for found in measured.values()]
        for name, interval in zip(measured, settings.means(columns, clusters_M[chosen]), strict=True):
            accuracy = {"value": interval.value, "low": interval.low, "high": interval.high}
            rows.append({**place, "scorer": name, **counts, **accuracy})
    return rows


def worst_slice(rows: Sequence[Mapping[str, Any]], scorer: str, min_pairs: int) -> dict[str, Any] | None:
    """The scorer's slice of least accuracy among those with enough pairs that are not chosen by the outcome."""
    own = [row for row in rows if row["scorer"] == scorer and not row["by_outcome"]]
    large = [row for row in own if row["n_pairs"] >= min_pairs]
    return dict(min(large, key=lambda row: row["value"])) if large else None


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows with a header line."""
    names = ("property", "slice", "by_outcome", "scorer", "n_pairs", "n_clusters", "value", "low", "high")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows)
    return text.getvalue()


def _labels(texts: Texts, field: str, chars: int | None = None) -> np.ndarray:
    """[M] labels of the better one; "" where a record has none or the two differ."""
    values = np.array([(getattr(record, field) or "")[:chars] for record in texts.records])
    better, worse = values[texts.pairs.better_M], values[texts.pairs.worse_M]
    return np.where(better == worse, better, "")


def _numbers(texts: Texts, field: str) -> np.ndarray:
    """[N] NaN where a record has none."""
    values = [getattr(record, field) for record in texts.records]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _by_label(name: str, labels_M: np.ndarray) -> list[Slice]:
    present = [str(label) for label in np.unique(labels_M) if label]
    return [Slice(name, label, labels_M == label) for label in present] if len(present) > 1 else []


def _by_third(name: str, values_M: np.ndarray, unit: str) -> list[Slice]:
    return _by_quantile(name, values_M, unit, _THIRDS)


def _by_half(name: str, values_M: np.ndarray, unit: str) -> list[Slice]:
    return _by_quantile(name, values_M, unit, ("early", "late"))


def _by_quantile(name: str, values_M: np.ndarray, unit: str, labels: Sequence[str]) -> list[Slice]:
    """Parts of equal size as far as equal values allow; NaN belongs to none."""
    known = values_M[np.isfinite(values_M)]
    if not len(known) or known.min() == known.max():
        return []
    edges = np.quantile(known, np.linspace(0, 1, len(labels) + 1)[1:-1])
    numbers = np.where(np.isfinite(values_M), np.searchsorted(edges, values_M, side="left"), -1)
    found = []
    for number, label in enumerate(labels):
        members = numbers == number
        if members.any():
            ends = f"{_short(values_M[members].min())} to {_short(values_M[members].max())} {unit}".rstrip()
            found.append(Slice(name, f"{label} ({ends})", members))
    return found if len(found) > 1 else []


def _short(value: float) -> str:
    """3,632; 0.1042"""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _length_order(better_M: np.ndarray, worse_M: np.ndarray, matched_M: np.ndarray) -> list[Slice]:
    parts = (
        (BETTER_LONGER, (better_M > worse_M) & ~matched_M, True),
        (BETTER_SHORTER, (better_M < worse_M) & ~matched_M, True),
        (f"equally long (within {LENGTH_MATCH:.0%})", matched_M, False),
    )
    return [
        Slice("which is longer", label, members, outcome)
        for label, members, outcome in parts
        if members.any()
    ]


def _order(better_M: np.ndarray, worse_M: np.ndarray) -> list[Slice]:
    parts = (
        ("the better one came first", better_M < worse_M),
        ("the better one came later", better_M > worse_M),
    )
    return [Slice("which came first", label, members, True) for label, members in parts if members.any()]
