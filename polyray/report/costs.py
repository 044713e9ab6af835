"""Table of what runs cost, from their cost.json files: a row per run and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polyray.errors import DataError
from polyray.report.numbers import seconds
from polyray.runs.cost import HOUR_S, Cost, cost_files, read_cost, sum_costs
from polyray.runs.run_directory import RunPaths

ALL = "all"


@dataclass(frozen=True, slots=True)
class CostRow:
    """One run or the sum, e.g. CostRow("first", Cost("train", core_s=3600.0, money=0.01))."""

    run: str
    cost: Cost

    @property
    def texts(self) -> tuple[str, ...]:
        """Cells of a page: wall time, core hours, GPU hours, tokens generated, trained and of judges, money."""
        cost = self.cost
        return (
            seconds(cost.wall_s),
            f"{cost.core_s / HOUR_S:.3g}",
            f"{cost.gpu_s / HOUR_S:.3g}",
            f"{cost.tokens_generated:,}",
            f"{cost.tokens_trained:,}",
            f"{cost.judge_tokens:,}",
            "unpriced" if cost.money is None else f"{cost.money:.4g} {cost.currency}",
        )


@dataclass(frozen=True, slots=True)
class CostTable:
    """Rows of all runs, then their sum if there are several; `problems` names files without numbers."""

    rows: tuple[CostRow, ...]
    problems: tuple[str, ...]


def read_costs(run_dirs: Sequence[str | Path]) -> CostTable:
    """Costs of runs and of their parts; a run that is named twice counts once."""
    rows: dict[Path, CostRow] = {}
    problems: list[str] = []
    for run_dir in map(Path, run_dirs):
        for file in cost_files(run_dir) or [RunPaths(run_dir).cost]:
            try:
                rows.setdefault(file.resolve(), CostRow(file.parent.name, read_cost(file)))
            except DataError as error:
                problems.append(f"{file.parent.name}: {error}")
    total = [CostRow(ALL, sum_costs(row.cost for row in rows.values()))] if len(rows) > 1 else []
    return CostTable((*rows.values(), *total), tuple(dict.fromkeys(problems)))
