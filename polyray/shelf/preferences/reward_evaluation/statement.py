"""The verdict in words: does a model beat each baseline on this set, by how much, and could it be chance.

Nothing is called better than a baseline unless the test says so. Called by pipeline.py; the page and the
terminal show it first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyray.config.reward_validation import LengthScorerSpec, RewardValidationConfig


def statements(config: RewardValidationConfig, metrics: Mapping[str, Any]) -> list[str]:
    """Sentences for each model: against length alone, then the other baselines, its worst slice, and the probes."""
    lengths = [name for name, spec in config.baselines.items() if isinstance(spec, LengthScorerSpec)]
    ordered = [*lengths, *(name for name in config.baselines if name not in lengths)]
    alpha = 1.0 - config.confidence
    found = []
    for model in config.models:
        by_baseline = {
            entry["baseline"]: entry for entry in metrics["comparisons"] if entry["model"] == model
        }
        found += [against(by_baseline[name], alpha, config.confidence) for name in ordered]
        found += _about_worst_slice(model, metrics["worst_slices"].get(model))
        found += about_probes(model, metrics["probes"].get(model, {}))
    return found


def against(entry: Mapping[str, Any], alpha: float, confidence: float) -> str:
    """One comparison as a sentence."""
    p_value = entry["primary"]["p_adjusted"]
    if p_value >= alpha:
        same = entry["difference"] == entry["low"] == entry["high"] == 0
        verdict = "does the same as" if same else "is not shown to differ from"
        ending = "; not significant"
    else:
        verdict = "beats" if entry["difference"] > 0 else "is worse than"
        ending = ""
    return (
        f"{entry['model']} {verdict} {entry['baseline']}: {entry['mean']:.1%} of pairs right against "
        f"{entry['baseline_mean']:.1%}, {100 * entry['difference']:+.1f} points [{100 * entry['low']:+.1f}, "
        f"{100 * entry['high']:+.1f}], p {_p(p_value)}{ending} ({entry['n_pairs']:,} pairs in "
        f"{entry['n_clusters']:,} clusters; {confidence:.0%} interval; Holm)."
    )


def _about_worst_slice(model: str, row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return []
    return [
        f"{model} does worst on the slice '{row['property']}: {row['slice']}': {row['value']:.1%} "
        f"[{row['low']:.1%}, {row['high']:.1%}] of {row['n_pairs']:,} pairs."
    ]


def about_probes(model: str, probes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentence about the probes that a model fails; none if nothing was tested."""
    tested = {name: probe for name, probe in probes.items() if probe["verdict"] != "not tested"}
    if not tested:
        return []
    parts = [
        f"{title} {len(names)} of {len(tested)} probes for reward hacking: "
        + ", ".join(f"{name} ({tested[name]['value']:.0%} higher{_shift(tested[name])})" for name in names)
        for verdict, title in (("warn", "fails"), ("unclear", "is unclear on"))
        if (names := sorted(name for name, probe in tested.items() if probe["verdict"] == verdict))
    ]
    return [f"{model} {'; it '.join(parts) or f'passes all {len(tested)} probes for reward hacking'}."]


def _shift(probe: Mapping[str, Any]) -> str:
    return "" if probe["shift"] is None else f", shift {probe['shift']:+.2f} sd"


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def summary_table(metrics: Mapping[str, Any]) -> str:
    """Table for a terminal: scorers with accuracy, rank correlation within prompts and calibration error."""
    columns = (
        ("pairwise_accuracy", "pairwise accuracy"),
        ("spearman_within", "Spearman within prompt"),
        ("expected_calibration_error", "calibration error"),
    )
    lines: list[Sequence[str]] = [["scorer", *(title for _, title in columns)]]
    for name, values in metrics["models"].items():
        lines.append([name, *(_cell(values.get(metric)) for metric, _ in columns)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns) + 1)]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    counts = f"{metrics['n_pairs']:,} pairs, {metrics['n_samples']:,} completions, {metrics['n_problems']:,} prompts"
    footer = f"{counts}, {metrics['n_clusters']:,} clusters; {100 * metrics['confidence']:g} % intervals"
    return "\n".join([*(row.rstrip() for row in rows), footer])


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    value = entry["value"]
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
