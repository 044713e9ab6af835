"""Quality of single texts: ROUGE against references, and agreement of scores with engagement.

Not here: exact match and F1 (the question answering task has them); BERTScore, which loads a model
(evaluation/bertscore.py). Called by evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import check_length, finite_vector
from polyray.metrics.tokens import check_texts

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


@dataclass(frozen=True, slots=True)
class Rouge:
    """F-measures, in [0, 1], e.g. Rouge(rouge1=.42, rouge2=.18, rouge_l=.35)."""

    rouge1: float
    rouge2: float
    rouge_l: float


@dataclass(frozen=True, slots=True)
class EngagementCorrelation:
    """Rank correlation of scores with engagement.

    Example:
        EngagementCorrelation(spearman=.21, kendall=.15, spearman_within=.34, kendall_within=.28, num_items=4000,
                              num_groups=620, num_groups_left_out=31, groups=("t-1", ...),
                              spearman_by_group=(.5, ...), kendall_by_group=(.33, ...))
    """

    spearman: float
    """Spearman's correlation over all items; NaN if scores or engagements are all equal."""
    kendall: float
    """tau-b, which allows for ties."""
    spearman_within: float
    """Mean over groups: what is left when posts of different popularity are not compared. NaN without groups."""
    kendall_within: float
    num_items: int
    num_groups: int
    """Groups that count."""
    num_groups_left_out: int
    """Groups with one item, or with equal scores or equal engagements throughout."""
    groups: tuple[str, ...]
    """Names of those that count; the values below are in this order and can be resampled."""
    spearman_by_group: tuple[float, ...]
    kendall_by_group: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The summary, without the values by group; NaN becomes null."""
        names = ("spearman", "kendall", "spearman_within", "kendall_within")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        values = {name: value if np.isfinite(value) else None for name, value in values.items()}
        counts = ("num_items", "num_groups", "num_groups_left_out")
        return values | {name: getattr(self, name) for name in counts}


def rouge(prediction: str, references: str | Sequence[str], *, stem: bool = False) -> Rouge:
    """ROUGE-1, -2 and -L as the package rouge-score computes them: for each, the best F over references.

    Its tokens are lower-case runs of a-z and 0-9, so other scripts score 0. `stem`: Porter's stemmer. Texts
    without a token score 0.

    Raises:
        ValueError: no reference.
    """
    targets = [references] if isinstance(references, str) else list(references)
    check_texts(targets)
    found = _scorer(stem).score_multi(targets, prediction)
    return Rouge(*(float(found[name].fmeasure) for name in _ROUGE_TYPES))


def engagement_correlation(
    scores: npt.ArrayLike, engagements: npt.ArrayLike, groups: Sequence[Any] | npt.ArrayLike
) -> EngagementCorrelation:
    """Spearman's rho and Kendall's tau-b of scores with engagement, overall and within each prompt.

    The correlation within prompts is the one that speaks of replies: overall, a popular post lifts all of its
    replies.

    Args:
        scores: [N] what a model or judge says.
        engagements: [N] up-votes, likes, clicks.
        groups: [N] the prompt of each item, strings or numbers.

    Raises:
        ValueError: fewer than 2 items, different lengths, NaN.
    """
    first = finite_vector(scores, "scores", at_least=2)
    second = finite_vector(engagements, "engagements")
    labels = np.asarray(groups)
    check_length(second, "engagements", len(first))
    check_length(labels, "groups", len(first))
    names, group_of = np.unique(labels, return_inverse=True)
    found: dict[str, tuple[float, float]] = {}
    # Sorted once, so that every group is a slice.
    order = np.argsort(group_of, kind="stable")
    bounds = np.searchsorted(group_of[order], np.arange(len(names) + 1))
    for number, name in enumerate(names):
        members = order[bounds[number] : bounds[number + 1]]
        if _varies(first[members]) and _varies(second[members]):
            found[str(name)] = _correlations(first[members], second[members])
    overall = (float("nan"), float("nan"))
    if _varies(first) and _varies(second):
        overall = _correlations(first, second)
    spearman, kendall = zip(*found.values(), strict=True) if found else ((), ())
    return EngagementCorrelation(
        spearman=overall[0],
        kendall=overall[1],
        spearman_within=float(np.mean(spearman)) if found else float("nan"),
        kendall_within=float(np.mean(kendall)) if found else float("nan"),
        num_items=len(first),
        num_groups=len(found),
        num_groups_left_out=len(names) - len(found),
        groups=tuple(found),
        spearman_by_group=spearman,
        kendall_by_group=kendall,
    )


_ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


@cache
def _scorer(stem: bool) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE_TYPES), use_stemmer=stem)


def _varies(values: npt.NDArray[np.float64]) -> bool:
    return bool(values.min() < values.max())


def _correlations(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float]:
    from scipy import stats

    rho: Any = np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]  # Spearman's: Pearson's of the ranks
    tau: Any = stats.kendalltau(a, b)
    return float(rho), float(tau.statistic)
