"""metrics.json as a few lines of text for a terminal. The page with figures is polyray/report."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    ("pass_at_k", "pass@{k}"),
    ("distinct_correct_at_k", "distinct-correct@{k}"),
    ("usq_at_k", "USQ@{k}"),
)


def summary_table(metrics: dict[str, Any]) -> str:
    """One line per model: pass@1 and, at the largest k, pass@k, distinct-correct@k, USQ@k, with intervals."""
    models = metrics["models"]
    ks = sorted({int(k) for values in models.values() for k in values["pass_at_k"]})
    columns = [("pass_at_k", ks[0], "pass@{k}")] if len(ks) > 1 else []
    columns += [(metric, ks[-1], title) for metric, title in COLUMNS]
    lines = [["model", *(title.format(k=k) for _, k, title in columns)]]
    for name, values in models.items():
        lines.append([name, *(_cell(values.get(metric), k) for metric, k, _ in columns)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    footer = (
        f"{metrics['n_problems']} prompts in {metrics['n_clusters']} clusters, {metrics['n_samples']} "
        f"samples each, {100 * metrics['confidence']:g} % intervals, selector {metrics['selector']}"
    )
    return "\n".join([*rows, footer])


def _cell(by_k: dict[str, dict[str, float]] | None, k: int) -> str:
    if by_k is None:  # trained on the reward that would pick
        return "refused"
    entry = by_k[str(k)]
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
