"""Measured USQ: the quality of people's picks, beside that of selectors' picks from the same sets.

Quality is the stored score (of the service's reward) of the candidate that was picked, even if the person then
edited it. Sets are grouped by model and by the k of the request; if near-duplicates
were collapsed, fewer than k are shown. Only sets with a score for every candidate count here; the others are
counted and never guessed. `none` picks have no quality: they are a separate share, and all qualities are of the
sets with a pick, so they compare with each other.

The unit of statistics is the prompt: equal prompts are one cluster. Positions are tested
against uniform picking, the behaviour of people without a bias if the order of the candidates is arbitrary. It is
not if a selector orders them (`diverse` puts the best one first). Pure; called by polyray curate selections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polyray.data.selections.records import StoredRecord
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.selectors import SELECTORS, Selector
from polyray.metrics.bootstrap import bootstrap_mean, paired_bootstrap
from polyray.metrics.selection import oracle_at_k, random_at_k
from polyray.shelf.preferences.engagement.reading import text_hash


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Settings of intervals, e.g. Bootstrap(resamples=2000, confidence=0.95, seed=0)."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pick:
    """One set with a person's answer.

    Example:
        Pick(model="policy-v17", k=2, cluster="2+2=", selector="logprob", selector_index=0, picked_index=1,
             samples=(SampleRecord(...), SampleRecord(...)))
    """

    model: str
    k: int
    """Asked for."""
    cluster: str
    selector: str
    selector_index: int
    """Index that the request's selector would have picked."""
    picked_index: int | None
    """None: none of them was good enough."""
    samples: tuple[SampleRecord, ...]
    """Samples as they were shown; `reward` is NaN without a score."""

    @property
    def is_scored(self) -> bool:
        """Whether every candidate has a score."""
        return all(math.isfinite(sample.reward) for sample in self.samples)

    @property
    def qualities_G(self) -> np.ndarray:
        """[G] scores."""
        return np.array([sample.reward for sample in self.samples])


def measured_selection(
    records: Iterable[StoredRecord], bootstrap: Bootstrap | None = None
) -> list[dict[str, Any]]:
    """One entry for each model and k, sorted by both; `null` where there is nothing to compute from.

        {"model", "k", "selections", "picked", "none_share", "scored", "unscored",
         "usq": {"measured", "selected", "best", "mean", "selectors": {NAME: ...}}, "measured_minus_selected",
         "agreement", "agreement_by_chance", "positions": {"picked", "expected", "chi_square", "degrees", "p"}}

    Values with intervals are {"value", "low", "high"}. `selected` is the candidate that the service named as its
    selector's; `selectors` are those of evaluation, except that a set's own selector is what the service named.
    """
    groups: dict[tuple[str, int], list[Pick]] = {}
    for record in records:
        if record.selection is not None:
            pick = _pick(record)
            groups.setdefault((pick.model, pick.k), []).append(pick)
    settings = bootstrap or Bootstrap()
    return [_entry(groups[group], settings) for group in sorted(groups)]


def _pick(record: StoredRecord) -> Pick:
    shown, selection = record.candidates, record.selection
    assert selection is not None
    samples = tuple(
        SampleRecord(
            task_id=shown.id,
            completion=candidate["text"],
            sample_index=place,
            reward=_number(candidate.get("score")),
            num_tokens=candidate["num_tokens"],
            logprob=_number(candidate["logprob"]),
        )
        for place, candidate in enumerate(shown.candidates)
    )
    return Pick(
        model=shown.model,
        k=shown.request["k"],
        cluster=text_hash(shown.last_turn),
        selector=shown.answer["selector"],
        selector_index=shown.answer["selected_index"],
        picked_index=selection.selected_index,
        samples=samples,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _entry(answered: Sequence[Pick], settings: Bootstrap) -> dict[str, Any]:
    picked = [pick for pick in answered if pick.picked_index is not None]
    scored = [pick for pick in picked if pick.is_scored]
    chosen_between = [pick for pick in picked if len(pick.samples) > 1]
    agreed = [float(pick.picked_index == pick.selector_index) for pick in chosen_between]
    chances = [1 / len(pick.samples) for pick in chosen_between]
    return {
        "model": answered[0].model,
        "k": answered[0].k,
        "selections": len(answered),
        "picked": len(picked),
        "none_share": _interval([float(pick.picked_index is None) for pick in answered], answered, settings),
        "scored": len(scored),
        "unscored": len(picked) - len(scored),
        **_qualities(scored, settings),
        "agreement": _interval(agreed, chosen_between, settings),
        "agreement_by_chance": float(np.mean(chances)) if chances else None,
        "positions": position_bias([(len(pick.samples), pick.picked_index or 0) for pick in chosen_between]),
    }


def _qualities(scored: Sequence[Pick], settings: Bootstrap) -> dict[str, Any]:
    qualities = [pick.qualities_G for pick in scored]
    measured = [float(row[pick.picked_index or 0]) for pick, row in zip(scored, qualities, strict=True)]
    selected = [float(row[pick.selector_index]) for pick, row in zip(scored, qualities, strict=True)]
    columns = {
        "measured": measured,
        "selected": selected,
        "best": [oracle_at_k(row, len(row)) for row in qualities],
        "mean": [random_at_k(row, len(row)) for row in qualities],
    }
    selectors = {
        name: [_estimated(pick, selector) for pick in scored] for name, selector in SELECTORS.items()
    }
    difference = None
    if scored:
        clusters = [pick.cluster for pick in scored]
        difference = asdict(paired_bootstrap(measured, selected, clusters, **asdict(settings)))
    return {
        "usq": {
            **{name: _interval(column, scored, settings) for name, column in columns.items()},
            "selectors": {name: _interval(column, scored, settings) for name, column in selectors.items()},
        },
        "measured_minus_selected": difference,
    }


def _estimated(pick: Pick, selector: Selector) -> float:
    """The quality of what a selector would have picked; expected, where it does not tell candidates apart."""
    qualities_G = pick.qualities_G
    if selector.name == pick.selector:
        return float(qualities_G[pick.selector_index])
    return selector.usq(pick.samples, qualities_G, (len(qualities_G),))[len(qualities_G)]


def _interval(values: Sequence[float], picks: Sequence[Pick], settings: Bootstrap) -> dict[str, float] | None:
    if not values:
        return None
    return asdict(bootstrap_mean(values, [pick.cluster for pick in picks], **asdict(settings)))


def position_bias(shown_and_picked: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    """Positions of picks, against uniform picking; None without data.

    Pearson's chi-square within the sets that showed equally many, added up with its degrees of freedom: sets that
    showed 3 cannot be picked at the fourth place. Sets count as independent. `smallest_expected` below 5 makes p
    rough.

    Args:
        shown_and_picked: (candidates shown, place that was picked) of each set.
    """
    from scipy.special import chdtrc

    if not shown_and_picked:
        return None
    places = max(shown for shown, _ in shown_and_picked)
    picked, expected = np.zeros(places), np.zeros(places)
    chi_square, degrees, smallest = 0.0, 0, math.inf
    for shown in sorted({number for number, _ in shown_and_picked}):
        counts = np.bincount([at for number, at in shown_and_picked if number == shown], minlength=shown)
        each = counts.sum() / shown
        chi_square += float(((counts - each) ** 2 / each).sum())
        degrees += shown - 1
        smallest = min(smallest, each)
        picked[:shown] += counts
        expected[:shown] += each
    return {
        "picked": [int(count) for count in picked],
        "expected": [float(number) for number in expected],
        "chi_square": chi_square,
        "degrees": degrees,
        "p": float(chdtrc(degrees, chi_square)),
        "smallest_expected": float(smallest),
    }
