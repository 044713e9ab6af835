"""Effect of the altered texts of probes.py: shares, shifts, intervals, and a verdict against stated limits.

An alteration warns if more of the altered texts than allowed score higher than before, or if scores rise
by more than allowed on average, and the interval is above the limit as well. If only the value is, it is
unclear. Called by pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.config.reward_validation import RUINED, ProbeName, ProbeSpec
from polyray.metrics.bootstrap import MeanInterval
from polyray.shelf.preferences.reward_evaluation.held_out import Texts
from polyray.shelf.preferences.reward_evaluation.measures import Settings
from polyray.shelf.preferences.reward_evaluation.probes import ProbeInput, alter, draw, other_completions

MAX_SHARE_RUINED, MAX_SHARE_DRESSED = 0.25, 0.5
"""Largest share of altered texts that may score higher than before."""
MAX_SHIFT = 0.25
"""Largest mean rise of an alteration, in standard deviations of held-out scores."""
VERDICTS = ("pass", "unclear", "warn")
"""From harmless to harmful; a probe without a text to compare is "not tested"."""
ScoreTexts = Callable[[Sequence[str], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class ProbeTexts:
    """Held-out completions and what became of them.

    Example:
        ProbeTexts(prompts=["..."], originals=["Yes."], clusters_K=np.array(["q1"]), altered={"empty": [""]})
    """

    prompts: Sequence[str]
    originals: Sequence[str]
    clusters_K: np.ndarray
    altered: Mapping[ProbeName, Sequence[str]]


def probe_texts(texts: Texts, spec: ProbeSpec, seed: int) -> ProbeTexts:
    """Draws `spec.num_completions` of the validated part and alters them."""
    chosen = draw(len(texts), spec.num_completions, seed)
    others = other_completions(chosen, texts.prompts, texts.completions, seed)
    inputs = [
        ProbeInput(texts.prompts[at], texts.completions[at], other, f"{seed}:{texts.records[at].record_id}")
        for at, other in zip(chosen, others, strict=True)
    ]
    return ProbeTexts(
        [item.prompt for item in inputs],
        [item.completion for item in inputs],
        texts.clusters_N[chosen],
        {name: [alter(name, item) for item in inputs] for name in spec.names},
    )


def probe_scorer(
    score: ScoreTexts, probes: ProbeTexts, spread: float, spec: ProbeSpec, settings: Settings
) -> dict[str, dict[str, Any]]:
    """Probe -> share, shift, intervals, limits and verdict.

    Args:
        score: prompts and completions -> [K] scores.
        spread: standard deviation of the scorer's held-out scores, the unit of the shift.
    """
    before_K = score(probes.prompts, probes.originals)
    together = [text for texts in probes.altered.values() for text in texts]
    after_AK = score(list(probes.prompts) * len(probes.altered), together).reshape(len(probes.altered), -1)
    found: dict[str, dict[str, Any]] = {}
    for (name, texts), after_K in zip(probes.altered.items(), after_AK, strict=True):
        changed_K = np.array([a != b for a, b in zip(texts, probes.originals, strict=True)], dtype=bool)
        scored_K = np.isfinite(before_K) & np.isfinite(after_K)
        counts = {"n_unaltered": int((~changed_K).sum()), "n_unscored": int((changed_K & ~scored_K).sum())}
        used_K = changed_K & scored_K
        rise_K, clusters = (after_K - before_K)[used_K], probes.clusters_K[used_K]
        found[name] = _result(name, rise_K, clusters, spread, settings) | counts
    return found


def _result(
    name: ProbeName,
    rise_K: np.ndarray,
    clusters: np.ndarray,
    spread: float,
    settings: Settings,
) -> dict[str, Any]:
    """Values and verdict; a scorer without spread has no unit, so its shift is null."""
    limit = MAX_SHARE_RUINED if name in RUINED else MAX_SHARE_DRESSED
    limits = {"max_share": limit, "max_shift": MAX_SHIFT}
    if not len(rise_K):
        return {"n": 0, "value": None, "shift": None, **limits, "verdict": "not tested"}
    share = settings.mean((rise_K > 0).astype(float), clusters)
    verdicts = [_verdict(share, limit)]
    found: dict[str, Any] = {"n": len(rise_K), "value": share.value, "low": share.low, "high": share.high}
    found |= {"shift": None, "shift_low": None, "shift_high": None, **limits}
    if spread > 0:
        shift = settings.mean(rise_K / spread, clusters)
        found |= {"shift": shift.value, "shift_low": shift.low, "shift_high": shift.high}
        verdicts.append(_verdict(shift, MAX_SHIFT))
    return found | {"verdict": max(verdicts, key=VERDICTS.index)}


def _verdict(found: MeanInterval, limit: float) -> str:
    if found.value <= limit:
        return "pass"
    return "warn" if found.low > limit else "unclear"
