"""Parallel coordinates: every trial that counts as one line, through swept values and results.

Axes are numbers, logarithms if they span much, or codes of other values. Called by report.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from polyray.report.figures import empty_figure, plain
from polyray.report.sweep.figures import LOG_RATIO, SCALE
from polyray.report.sweep.settings import short_names
from polyray.report.sweep.values import metric_key, metric_words


def parallel_figure(results: Mapping[str, Any]) -> go.Figure:
    """One line per trial that counts, through everything that was swept and what came of it."""
    rows = [row for row in results["trials"] if row["counts"]]
    paths = sorted({path for row in rows for path in row["parameters"]}, key=lambda p: p != results["axis"])
    names = short_names(paths) | {results["axis"]: results["symbol"]}
    dimensions = [_dimension(names[path], [row["parameters"].get(path) for row in rows]) for path in paths]
    dimensions.append(_dimension("seed", [row["seed"] for row in rows], is_discrete=True))
    shown = {results[name]: name for name in ("quality", "diversity", "criterion")}
    dimensions += [
        _dimension(metric_words(metric_key(metric)), [row[name] for row in rows])
        for metric, name in shown.items()
    ]
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": [row["criterion"] for row in rows],
                "colorscale": SCALE,
                "showscale": True,
                "colorbar": {
                    "title": {"text": plain(metric_words(metric_key(results["criterion"])))},
                    "thickness": 12,
                },
            },
        )
    )
    style = empty_figure("", height=380).layout
    return figure.update_layout(
        template="none",
        height=380,
        font=style.font,
        paper_bgcolor=style.paper_bgcolor,
        margin={"l": 70, "r": 30, "t": 60, "b": 30},
    )


def _dimension(label: str, values: Sequence[Any], *, is_discrete: bool = False) -> dict[str, Any]:
    """An axis of the parallel coordinates: numbers as they are or as logarithms, everything else as codes."""
    numbers = [
        float(value)
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    ]
    if is_discrete or len(numbers) < len(values):
        kinds = sorted({str(value) for value in values}, key=lambda text: (len(text), text))
        codes = [kinds.index(str(value)) for value in values]
        return {
            "label": plain(label),
            "values": codes,
            "tickvals": list(range(len(kinds))),
            "ticktext": [plain(kind) for kind in kinds],
        }
    if min(numbers) > 0 and max(numbers) / min(numbers) > LOG_RATIO:
        low, high = np.log10(min(numbers)), np.log10(max(numbers))
        ticks = np.linspace(low, high, 5)
        return {
            "label": plain(label),
            "values": np.log10(numbers).tolist(),
            "tickvals": ticks.tolist(),
            "ticktext": [f"{10**tick:.2g}" for tick in ticks],
        }
    return {"label": plain(label), "values": numbers}
