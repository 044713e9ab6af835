"""Real trials of a sweep, at the same time on one fleet and one after another on fleets of their own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine_memory import GB, EngineMemory
from benchmarks.measure import Measure
from polyray.config.loader import load_config
from polyray.config.model import EMBEDDED, ModelSpec
from polyray.config.run import PretrainConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError, PolyrayError
from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from polyray.sweeps.plan import TrialPlan, plan_trials, trial_dir
from polyray.types import EngineUsage, is_timing_key

if TYPE_CHECKING:
    from polyray.launch.fleet import Fleet
    from polyray.runs.progress import ProgressDisplay

DEFAULT_CONFIG = "configs/train/hidden_trap_grid.yaml"
PRETRAIN_CONFIG = "configs/pretrain.yaml"
LIMITS = {"wall": 0.8, "memory": 0.5, "return_share": 0.03}
GRID = (0.0, 1.0)
SEEDS = (0, 1)
NUM_TRIALS = len(GRID) * len(SEEDS)
AT_ONCE = {"shared": NUM_TRIALS, "per_trial": 1}
"""Kind of fleet -> number of concurrent trials."""
CALL_TIMEOUT_S = 60.0

Lines = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class SweepRun:
    """One way of running the trials.

    Example:
        SweepRun(wall_s=151.0, ready_s=31.0, memory=EngineMemory(), lines={"t000-c811d871": [{"step": 0, ...}]},
                 trial_s=(118.0,), usage=[EngineUsage(busy_s=12.5, ...)])
    """

    wall_s: float
    ready_s: float
    """Seconds until the shared fleet was ready; 0 if trials start their own."""
    memory: EngineMemory
    lines: dict[str, list[dict[str, Any]]]
    """Trial -> its metrics.jsonl."""
    trial_s: tuple[float, ...]
    """Seconds of each trial, from the start of its process to its end."""
    usage: list[EngineUsage] = field(default_factory=list)
    """EngineUsage of every engine of the shared fleet."""


def real_measures(steps: int, display: ProgressDisplay) -> list[Measure]:
    """Both ways, the shared fleet first, on one Ray."""
    train = load_config(TrainConfig, DEFAULT_CONFIG, ())
    ensure_embedded(train.model, display)
    runs: dict[str, SweepRun] = {}
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as runs_dir:
        for number, mode in enumerate(AT_ONCE, start=1):
            config = benchmark_sweep(train, mode, steps, runs_dir)
            display.section(f"{NUM_TRIALS} trials, fleet {mode}", number, len(AT_ONCE))
            runs[mode] = _run(config, display)
    return sweep_measures(runs["shared"], runs["per_trial"])


def benchmark_sweep(train: TrainConfig, mode: str, steps: int, runs_dir: str) -> SweepConfig:
    """2 λ x 2 seeds of the default configuration, validated once at the end, which Tune wants to hear of."""
    warm_start = train.model.warm_start
    there = warm_start is not None and Path(warm_start).is_dir()
    overrides = [
        "algorithm.quality_weight=1.0",
        f"learner.steps={steps}",
        f"evaluation.every={steps}",
        "evaluation.num_prompts=16",
        *(() if there else ("model.warm_start=null",)),
    ]
    return SweepConfig.model_validate(
        {
            "name": mode.replace("_", "-"),
            "runs_dir": runs_dir,
            "train": DEFAULT_CONFIG,
            "overrides": overrides,
            "parameters": {"algorithm.diversity_weight": {"grid": GRID}},
            "seeds": SEEDS,
            "max_concurrent_trials": AT_ONCE[mode],
            "max_failures": 0,
            "fleet": {"mode": mode},
        }
    )


def _run(config: SweepConfig, display: ProgressDisplay) -> SweepRun:
    from polyray.launch.plan import check_training
    from polyray.runs.run_directory import RunDirectory
    from polyray.sweeps.run import check_resources, run_trials, shared_fleet

    plans = plan_trials(config)
    for plan in plans:
        check_training(plan.config)
    check_resources(config, plans)
    ready_s, usage = 0.0, []
    with RunDirectory.open(config) as directory, EngineMemory() as memory:
        started = time.perf_counter()
        with shared_fleet(config, plans) if config.fleet.mode == "shared" else nullcontext() as fleet:
            ready_s = time.perf_counter() - started if fleet is not None else 0.0
            trials = run_trials(config, plans, fleet, directory, display)
            if fleet is not None:
                usage = _usage(fleet)
        wall_s = time.perf_counter() - started
    for trial in trials:
        if trial.status != "done":
            raise PolyrayError(f"trial {trial.trial_id} did not come to its end: {trial.error}")
    seconds = tuple(trial.seconds for trial in trials)
    return SweepRun(wall_s, ready_s, memory, _lines(config, plans), seconds, usage)


def _lines(config: SweepConfig, plans: list[TrialPlan]) -> dict[str, list[dict[str, Any]]]:
    paths = {plan.trial_id: RunPaths(trial_dir(config, plan.trial_id)) for plan in plans}
    return {trial_id: read_jsonl(of_trial.metrics) for trial_id, of_trial in paths.items()}


def _usage(fleet: Fleet) -> list[EngineUsage]:
    import ray

    from polyray.orchestrator.rollout_pool import SharedPool

    assert isinstance(fleet.pool, SharedPool)
    workers = fleet.pool.for_run("").workers  # with replacements
    return ray.get([worker.handle.usage.remote() for worker in workers], timeout=CALL_TIMEOUT_S)


def ensure_embedded(model: ModelSpec, display: ProgressDisplay) -> None:
    """Builds the embedded model where `model` is that and it is not there yet."""
    from polyray.learner.embedded import build_embedded
    from polyray.models.base_files import find_embedded

    if model.path != EMBEDDED:
        return
    try:
        find_embedded(Path(model.cache_dir))
    except ConfigError:
        display.update(phase="building the embedded model")
        build_embedded(load_config(PretrainConfig, PRETRAIN_CONFIG, [f"cache_dir={model.cache_dir}"]))


def differing_values(first: Lines, second: Lines) -> list[str]:
    """'step 3: loss' for every value that is not equal, timing keys aside; a missing line counts as one."""
    differing = [f"step {step}" for step in range(min(len(first), len(second)), max(len(first), len(second)))]
    for one, other in zip(first, second, strict=False):
        keys = sorted({*one, *other})
        differing += [
            f"step {one['step']}: {key}"
            for key in keys
            if not is_timing_key(key) and one.get(key, "missing") != other.get(key, "missing")
        ]
    return differing


def sweep_measures(shared: SweepRun, own: SweepRun) -> list[Measure]:
    """Both ways against each other."""
    together = max(_steps_s(shared))
    after_another = sum(_steps_s(own))
    differing = sum(
        len(differing_values(lines, own.lines[trial_id])) for trial_id, lines in shared.lines.items()
    )
    return [
        Measure(f"real: {NUM_TRIALS} trials, one shared fleet", (shared.wall_s,), "s"),
        Measure("real:   of which until the fleet was ready", (shared.ready_s,), "s"),
        Measure("real:   of which a trial, beside the others", shared.trial_s, "s"),
        Measure(f"real: {NUM_TRIALS} trials one by one, own fleets", (own.wall_s,), "s"),
        Measure("real:   of which a trial with its fleet", own.trial_s, "s"),
        Measure("real: wall time, shared over own", (shared.wall_s / own.wall_s,), "", LIMITS["wall"]),
        Measure("real: steps alone, shared (longest trial)", (together,), "s"),
        Measure("real: steps alone, own (all trials)", (after_another,), "s"),
        Measure("real: steps alone, shared over own", (together / after_another,)),
        *_memory_measures(shared.memory, own.memory),
        *load_measures("real", shared.usage, LIMITS["return_share"]),
        Measure("real: metrics that differ between both ways", (float(differing),), "", 0.0),
    ]


def _memory_measures(shared: EngineMemory, own: EngineMemory) -> list[Measure]:
    return [
        Measure("real: engine processes, shared", (float(shared.num_engines),)),
        Measure("real: engine processes, own fleets", (float(own.num_engines),)),
        Measure("real: engine memory, shared fleet (RSS)", (shared.needed_bytes / GB,), "GB"),
        Measure("real: engine memory, all own fleets added", (own.needed_bytes / GB,), "GB"),
        Measure(
            "real: engine memory, shared over all own added",
            (shared.needed_bytes / own.needed_bytes,),
            "",
            LIMITS["memory"],
        ),
        Measure("real: engine memory at one time, shared", (shared.peak_bytes / GB,), "GB"),
        Measure("real: engine memory at one time, own", (own.peak_bytes / GB,), "GB"),
        Measure("real: engine memory at one time, shared over own", (shared.peak_bytes / own.peak_bytes,)),
    ]


def load_measures(name: str, usage: list[EngineUsage], limit: float | None) -> list[Measure]:
    """Share of loads in the engines' working time.

    Loads of new versions, which every way of sharing has; loads that only bring a trial's weights back; and waits
    that save such loads.
    """
    worked = [of.busy_s + of.load_s + of.return_s + of.kept_s for of in usage]
    versions = [of.load_s / seconds for of, seconds in zip(usage, worked, strict=True)]
    kept = [of.kept_s / seconds for of, seconds in zip(usage, worked, strict=True)]
    back = [of.return_s / seconds for of, seconds in zip(usage, worked, strict=True)]
    per_version = sum(of.returns for of in usage) / max(1, sum(of.loads for of in usage))
    return [
        Measure(f"{name}: loads of new versions, of engine time", tuple(versions)),
        Measure(
            f"{name}: loads that bring weights back, of engine time",
            tuple(back),
            "",
            limit,
            judged_by="worst",
        ),
        Measure(f"{name}:   such loads per new version", (per_version,)),
        Measure(f"{name}: waits that save such loads, of engine time", tuple(kept)),
    ]


def _steps_s(run: SweepRun) -> list[float]:
    return [sum(float(line["step_s"]) for line in lines) for lines in run.lines.values()]
