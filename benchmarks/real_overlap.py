"""Cost or gain of overlap if engines and learner share one machine's cores: real runs, in turns."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from benchmarks.loop import DEFAULT_CONFIG, benchmark_config
from benchmarks.measure import Measure
from benchmarks.training import WARM_UP_STEPS, read_lines
from polyray.config.loader import load_config
from polyray.config.run import TrainConfig

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

SLOWER_AT_MOST = 1.1
COLUMNS = ("step_s", "generate_s", "learn_s", "deliver_s", "idle_generate", "idle_learn")


def real_measures(steps: int, rounds: int, display: ProgressDisplay) -> list[Measure]:
    """Medians of a step at S = 0 and S = 1, each in `rounds` runs of `steps` steps on one fleet of engines."""
    from polyray.launch.fleet import open_fleet
    from polyray.launch.plan import plan_fleet, plan_training
    from polyray.launch.train import train
    from polyray.runs.run_directory import RunDirectory

    values: dict[int, dict[str, list[float]]] = {s: {name: [] for name in COLUMNS} for s in (0, 1)}
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as runs_dir:
        config = benchmark_config(load_config(TrainConfig, DEFAULT_CONFIG, ()), steps, runs_dir)
        with open_fleet(plan_fleet(config), "benchmark") as fleet:
            for number in range(2 * rounds):
                staleness = number % 2
                display.section(f"real parts, staleness {staleness}", number + 1, 2 * rounds)
                rollout = config.rollout.model_copy(update={"max_staleness": staleness})
                name = f"s{staleness}-{number // 2}"
                run = config.model_copy(update={"rollout": rollout, "name": name})
                with RunDirectory.open(run) as directory:
                    train(plan_training(run), directory, fleet, display)
                for line in read_lines(directory.paths.metrics)[WARM_UP_STEPS:]:
                    for column in COLUMNS:
                        values[staleness][column].append(float(line[column]))
    return _measures(values)


def _measures(values: dict[int, dict[str, list[float]]]) -> list[Measure]:
    measures = [
        Measure(
            f"real: {column} at S = {staleness}", tuple(of_run[column]), "s" if column[-2:] == "_s" else ""
        )
        for staleness, of_run in values.items()
        for column in COLUMNS
    ]
    before, after = (Measure("", tuple(values[staleness]["step_s"])).median for staleness in (0, 1))
    return [*measures, Measure("real: step at S = 1 over S = 0", (after / before,), limit=SLOWER_AT_MOST)]
