"""Golden runs: short runs whose results must stay equal to the last bit.

The first call trains and evaluates a few tiny models and records the sha256 of each adapter and every metric that
does not depend on the clock. A later call repeats the runs, compares them with the record and prints each value that
differs: run, step, key, old value, new value. Run it before and after a change that must not alter any result.

  sft              supervised fine-tuning with cross-entropy; the warm start of the other runs
  grpo             GRPO at staleness 0
  polychromic      polychromic at staleness 0
  resumed          polychromic, its driver killed between two checkpoints, then resumed; must equal polychromic
  polychromic_sft  supervised fine-tuning with the polychromic term
  evaluation       the base and the warm start on held-out prompts: metrics.json and the samples

A record belongs to one type of machine and one set of packages; any other is refused. The runs take a few minutes
on two cores and need no GPU. Their directories are deleted, unless something differs or fails.
Exit codes: 0 equal or recorded, 1 different, 2 wrong arguments or another machine's record.

  python -m benchmarks.golden                      # record, if runs/golden/record.json is missing; else compare
  python -m benchmarks.golden --only resumed       # this run, and the runs that it needs
  python -m benchmarks.golden --record before.json # another record
  python -m benchmarks.golden --update             # show the differences and replace the record
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.golden_record import (
    RESULT,
    Run,
    check_machine,
    differences,
    flat,
    read_record,
    run_differences,
    steps_of,
    this_machine,
    write_record,
)
from polyray.cli.arguments import JobParser, run
from polyray.config.loader import build_config
from polyray.config.paths import REPOSITORY_ROOT
from polyray.config.run import EvaluateConfig, PretrainConfig, RaySpec, SftConfig, TrainConfig
from polyray.errors import EXIT_FAILURE, EXIT_OK, ConfigError, PolyrayError
from polyray.rollout.watchdog import MARK, marked_processes

if TYPE_CHECKING:
    from polyray.launch.fleet import Fleet
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunPaths

RECORD = "runs/golden/record.json"
NEEDS: dict[str, tuple[str, ...]] = {
    "sft": (),
    "grpo": ("sft",),
    "polychromic": ("sft",),
    "resumed": ("sft", "polychromic"),
    "polychromic_sft": (),
    "evaluation": ("sft",),
}
"""Run -> runs that must come before it."""
STEPS = 6
CHECKPOINT_EVERY = 2
KILL_AFTER_STEPS = 3
"""Step of the kill, between two checkpoints, so that the resumed run repeats a step."""
START_TIMEOUT_S = 600.0
"""Steps of the killed run, from its last one before the kill."""
END_TIMEOUT_S = 5.0
"""Wait before the processes of a killed driver are killed as well, in seconds."""
NUM_WORKERS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks.golden", __doc__)
    parser.prog = "python -m benchmarks.golden"
    parser.add_argument("--record", metavar="FILE", default=RECORD, help="the record (default: %(default)s)")
    parser.add_argument(
        "--only", metavar="NAME", choices=tuple(NEEDS), help="one run, and the runs that it needs"
    )
    parser.add_argument(
        "--update", action="store_true", help="replace the record by the results of this call"
    )
    options = parser.parse_strictly(argv)
    path = Path(options.record)
    record, machine = read_record(path), this_machine()
    if record is None and options.only:
        raise ConfigError(f"--record {path} is missing; call without --only first: a record holds all runs")
    if record is not None and not (options.update and options.only is None):
        check_machine(path, record["machine"], machine)
    selected = tuple(NEEDS) if options.only is None else (*NEEDS[options.only], options.only)
    results, directory = _run(selected)
    return _conclude(path, record, machine, results, directory, update=options.update)


def _conclude(
    path: Path,
    record: dict[str, Any] | None,
    machine: dict[str, str],
    results: dict[str, Run],
    directory: Path,
    *,
    update: bool,
) -> int:
    """Compares, prints, and records what the call is to record; returns the exit code."""
    broken = []
    if "resumed" in results:
        broken = [
            f"resumed, {line} (unbroken -> resumed)"
            for line in run_differences(results["polychromic"], results["resumed"])
        ]
    known = {} if record is None else record["runs"]
    others = (
        {} if set(results) == set(NEEDS) else {name: known[name] for name in known.keys() - results.keys()}
    )
    changed = [] if record is None else differences(known, {**others, **results})
    for line in (*broken, *changed):
        print(line)
    if broken or (changed and not update):
        print(f"{len(broken) + len(changed)} values differ from {path}; the runs are kept in {directory}")
        return EXIT_FAILURE
    shutil.rmtree(directory)
    if record is None or update:
        write_record(path, machine, {**others, **results})
        print(f"recorded {', '.join(results)} in {path}")
    else:
        print(f"equal to {path}: {', '.join(results)}")
    return EXIT_OK


def _run(selected: Sequence[str]) -> tuple[dict[str, Run], Path]:
    """The results of each run, and the directory that holds all runs."""
    from polyray.launch.fleet import open_fleet, open_ray
    from polyray.launch.plan import plan_fleet
    from polyray.learner.embedded import build_embedded
    from polyray.runs.progress import ProgressDisplay

    work = Path(tempfile.mkdtemp(prefix="polyray-golden-"))
    plan = Plan.of(work)
    results: dict[str, Run] = {}
    total = len(selected) + 2
    with ProgressDisplay() as display:
        display.note(f"runs      {work}")
        display.section("pretrain", 1, total)
        build_embedded(
            plan.pretrain,
            lambda step, steps, loss: display.update(step=step, total=steps, metrics={"loss": loss}),
        )
        display.section("start", 2, total)
        with (
            open_ray(RaySpec(dashboard=False), display),
            open_fleet(plan_fleet(plan.grpo), "golden") as fleet,
        ):
            fleet.pool.wait_until_ready()
            parts = _parts(plan, fleet, display)
            for number, name in enumerate(selected, start=3):
                display.section(name, number, total)
                results[name] = parts[name]()
    return results, work


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration of each run, all below one directory."""

    pretrain: PretrainConfig
    sft: SftConfig
    grpo: TrainConfig
    polychromic: TrainConfig
    resumed: TrainConfig
    polychromic_sft: SftConfig
    evaluation: EvaluateConfig

    @classmethod
    def of(cls, work: Path) -> Plan:
        """The plan below `work`; runs that share engines have one `rollout`."""
        cache = {"cache_dir": str(work / "cache")}
        model = {**cache, "lora": {"rank": 8, "alpha": 16}}
        runs = {"runs_dir": str(work)}
        warm_start = str(work / "sft" / "adapter")
        rollout = {
            "num_workers": NUM_WORKERS,
            "prompts_per_step": 8,
            "group_size": 8,
            "max_prompt_tokens": 16,
            "max_completion_tokens": 10,
            "max_staleness": 0,
        }
        learner = {"checkpoint_every": CHECKPOINT_EVERY, "num_threads": 1}
        engines = {
            "rollout": rollout,
            "delivery": {"mode": "merged"},
            "reward": {"type": "verifier", "service": {"port": 0, "num_cpus": 0.5}},
        }
        polychromic = {"type": "polychromic", "objective": "cluster", "diversity_weight": 1.0, "set_size": 4}
        supervised = {**runs, "model": model, "demonstrations_per_step": 32, "max_tokens": 32}

        def train(name: str, algorithm: dict[str, Any]) -> TrainConfig:
            values = {
                **runs,
                **engines,
                "name": name,
                "model": {**model, "warm_start": warm_start},
                "algorithm": algorithm,
                "learner": {**learner, "steps": STEPS, "learning_rate": 2e-3},
                "dynamics": None,
            }
            return build_config(TrainConfig, values)

        sft = {
            **supervised,
            "name": "sft",
            "learner": {**learner, "steps": 40, "checkpoint_every": 20, "learning_rate": 3e-3},
        }
        term = {
            "type": "polychromic",
            "objective": "distinct_correct",
            "diversity_weight": 0.3,
            "set_size": 4,
        }
        polychromic_sft = {
            **supervised,
            "name": "polychromic_sft",
            "objective": {**term, **engines},
            "learner": {**learner, "steps": STEPS, "learning_rate": 3e-3},
        }
        evaluation = {
            **runs,
            "name": "evaluation",
            "model": cache,
            "rollout": rollout,
            "adapters": {"base": None, "warm start": warm_start},
            "evaluation": {"num_samples": 8, "ks": [1, 2, 4, 8], "num_prompts": 60, "selector": "logprob"},
        }
        return cls(
            pretrain=PretrainConfig(cache_dir=cache["cache_dir"], steps=150, batch_rows=64, num_threads=1),
            sft=build_config(SftConfig, sft),
            grpo=train("grpo", {"type": "grpo", "kl_coefficient": 0.04, "kl_estimator": "k3"}),
            polychromic=train("polychromic", polychromic),
            resumed=train("resumed", polychromic),
            polychromic_sft=build_config(SftConfig, polychromic_sft),
            evaluation=build_config(EvaluateConfig, evaluation),
        )


def _parts(plan: Plan, fleet: Fleet, display: ProgressDisplay) -> dict[str, Callable[[], Run]]:
    """Run -> the function that runs it and returns its values."""
    from polyray.evaluation.sampling import EvaluationFiles
    from polyray.launch.evaluate import evaluate
    from polyray.launch.fleet import pool_sampler
    from polyray.launch.plan import plan_sft, plan_training
    from polyray.launch.sft import as_training, supervise
    from polyray.launch.train import train
    from polyray.runs.data_record import sha256_of
    from polyray.runs.run_directory import RunDirectory

    def supervised() -> Run:
        with RunDirectory.open(plan.sft) as directory:
            supervise(plan_sft(plan.sft), directory, display)
        return _trained(directory.paths)

    def reinforced(config: TrainConfig) -> Run:
        run = plan_training(config)
        with RunDirectory.open(config) as directory:
            train(run, directory, fleet, display)
        return _trained(directory.paths)

    def resumed() -> Run:
        _train_and_kill(plan.resumed, display)
        return reinforced(plan.resumed)

    def polychromic_sft() -> Run:
        config = as_training(plan.polychromic_sft)
        assert config is not None
        return reinforced(config)

    def evaluated() -> Run:
        with RunDirectory.open(plan.evaluation) as directory:
            evaluate(plan.evaluation, directory, pool_sampler(plan.evaluation, fleet.pool), display)
        files = EvaluationFiles(directory.paths.evaluation)
        return {
            "metrics": flat(json.loads(files.metrics.read_text(encoding="utf-8"))),
            RESULT: {"samples_sha256": sha256_of(files.samples)},
        }

    return {
        "sft": supervised,
        "grpo": lambda: reinforced(plan.grpo),
        "polychromic": lambda: reinforced(plan.polychromic),
        "resumed": resumed,
        "polychromic_sft": polychromic_sft,
        "evaluation": evaluated,
    }


def _trained(paths: RunPaths) -> Run:
    """The values of a finished training run."""
    from polyray.models.adapter_files import WEIGHTS_FILE
    from polyray.runs.data_record import sha256_of
    from polyray.runs.jsonl import read_jsonl

    digest = sha256_of(paths.adapter / WEIGHTS_FILE)
    return {**steps_of(read_jsonl(paths.metrics)), RESULT: {"adapter_sha256": digest}}


def _train_and_kill(config: TrainConfig, display: ProgressDisplay) -> None:
    """Starts polyray train on a Ray of its own and kills it between two checkpoints.

    PolyrayError where it ends before, or does not come so far in START_TIMEOUT_S.
    """
    from polyray.runs.jsonl import read_jsonl
    from polyray.runs.run_directory import RunPaths

    paths, deadline = RunPaths(config.run_dir), time.monotonic() + START_TIMEOUT_S
    display.update(phase="run to be killed")
    with _driver(config) as driver:
        while len(read_jsonl(paths.metrics)) < KILL_AFTER_STEPS:
            if driver.poll() is not None or time.monotonic() > deadline:
                raise PolyrayError(
                    f"the run to be killed did not come to step {KILL_AFTER_STEPS} in {START_TIMEOUT_S:g} s; its "
                    f"output is in {_log_of(config)}"
                )
            time.sleep(0.02)
    if len(read_jsonl(paths.metrics)) >= STEPS:
        raise PolyrayError(f"the run to be killed had ended before the kill; see {config.run_dir}")


@contextmanager
def _driver(config: TrainConfig) -> Iterator[subprocess.Popen[bytes]]:
    """A process of polyray train, killed with all its descendants at the end of the block."""
    mark = secrets.token_hex(8)
    file = config.run_dir.parent / f"{config.name}.json"  # JSON is YAML
    values: dict[str, Any] = config.model_dump(mode="json") | {"ray": {"dashboard": False}}
    values["rollout"]["num_workers"] = 1  # starts sooner; the number of workers changes no result
    file.write_text(json.dumps(values), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {MARK: mark}
    with _log_of(config).open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "polyray.cli", "train", str(file)],
            cwd=REPOSITORY_ROOT,
            env=kept,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()
        # They end by themselves and tidy up; Ray's agents would report the end of their cluster for a minute.
        deadline = time.monotonic() + END_TIMEOUT_S
        while (left := marked_processes(mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _log_of(config: TrainConfig) -> Path:
    return config.run_dir.parent / f"{config.name}.log"


if __name__ == "__main__":
    run(main)
