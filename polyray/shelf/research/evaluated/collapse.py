"""Gain from another candidate, from metrics.json: DER with its null, and how many candidates to generate.

Called by figures.py, drawings.py and polyray analyze evaluation.
"""

from __future__ import annotations

from polyray.shelf.research.evaluated.inputs import EvaluatedRun


def der(run: EvaluatedRun, model: str, suffix: str = "") -> dict[int, float]:
    """k -> diversity efficiency ratio (with "_null": of equally hard prompts), where it exists."""
    metric = f"diversity_efficiency_ratio{suffix}"
    values = {k: run.metrics.number("models", model, metric, str(k), "value") for k in run.ks}
    return {k: value for k, value in values.items() if value is not None}


def collapse_point(run: EvaluatedRun, model: str) -> int | None:
    """From this k on every further sample adds less than .01; None where each of the samples still adds that."""
    point = run.metrics.number("models", model, "collapse_point", "value", "value")
    return None if point is None else int(point)


def advice(run: EvaluatedRun) -> list[str]:
    """One sentence per model: how many candidates to generate."""
    found = []
    for model in run.models:
        entry = run.entry(model, "collapse_point", "value")
        if entry is None:
            continue
        point = collapse_point(run, model)
        if point is None:
            samples = run.metrics.values.get("n_samples")
            found.append(f"{model}: generate more than {samples} candidates, as each of these still adds .01")
            continue
        ends = ["more" if entry[end] is None else f"{entry[end]:.0f}" for end in ("low", "high")]
        found.append(
            f"{model}: generate {point} candidates [{ends[0]}, {ends[1]}]; beyond, each adds less than .01"
        )
    return found
