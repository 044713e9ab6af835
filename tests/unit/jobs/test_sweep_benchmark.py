"""The benchmark of sweeps: command line, memory, and runs with known times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep
from benchmarks.engine_memory import EngineMemory
from benchmarks.loop import DEFAULT_CONFIG
from benchmarks.measure import Measure
from benchmarks.simulated_run import SimulatedLoad
from benchmarks.simulated_sweep import Reading, Window, window_measures
from benchmarks.sweep_trials import AT_ONCE, SweepRun, benchmark_sweep, sweep_measures
from polyray.config.loader import load_config
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError
from polyray.rollout.worker import Usage
from polyray.sweeps.plan import plan_trials

ENGINE = b"ray::RolloutActor.rollout\0"


def write_process(proc: Path, pid: int, parent: int, title: bytes, kib: int) -> None:
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (a name) S {parent} 0")
    (proc / str(pid) / "cmdline").write_bytes(title)
    (proc / str(pid) / "status").write_text(f"Name:\ta\nVmHWM:\t9999 kB\nVmRSS:\t{kib} kB\n")


def test_engines_below_a_process_are_added_up_whether_at_the_same_time_or_not(tmp_path: Path) -> None:
    memory = EngineMemory(tmp_path)
    write_process(tmp_path, 10, 1, b"python\0", 7)
    write_process(tmp_path, 11, 10, b"raylet\0", 7)
    write_process(tmp_path, 12, 11, ENGINE, 100)
    write_process(tmp_path, 13, 11, b"ray::RewardModelWorker\0", 7)
    write_process(tmp_path, 90, 1, ENGINE, 7)  # somebody else's
    memory.sample(below=10)
    write_process(tmp_path, 12, 11, ENGINE, 80)
    write_process(tmp_path, 14, 11, ENGINE, 30)
    memory.sample(below=10)
    (tmp_path / "12" / "stat").unlink()
    write_process(tmp_path, 14, 11, ENGINE, 50)
    memory.sample(below=10)
    assert memory.num_engines == 2
    assert memory.peak_bytes == 110 * 1024
    assert memory.needed_bytes == 150 * 1024


def memory_of(highest: dict[int, int], peak: int) -> EngineMemory:
    memory = EngineMemory()
    memory._highest, memory.peak_bytes = highest, peak
    return memory


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


def test_both_ways_are_held_against_each_other_with_the_memory_of_every_fleet_and_of_one_time() -> None:
    steps = [{"step": 0, "step_s": 3.0, "loss": 0.5}, {"step": 1, "step_s": 5.0, "loss": 0.25}]
    other = [{"step": 0, "step_s": 1.0, "loss": 0.5}, {"step": 1, "step_s": 1.0, "loss": 0.75}]
    usage = [Usage(busy_s=8.0, loads=4, load_s=1.0, returns=2, return_s=1.0), Usage(busy_s=10.0, loads=4)]
    shared = SweepRun(60.0, 20.0, memory_of({1: 2, 2: 2}, 4), {"a": steps, "b": other}, (40.0, 40.0), usage)
    own = SweepRun(100.0, 0.0, memory_of({1: 2, 2: 2, 3: 2, 4: 2}, 5), {"a": steps, "b": steps}, (50.0, 50.0))
    seen = by_name(sweep_measures(shared, own))
    assert seen["real: wall time, shared over own"].median == 0.6
    assert seen["real: engine memory, shared over all own added"].median == 0.5
    assert seen["real: engine memory at one time, shared over own"].median == 0.8
    assert seen["real: steps alone, shared over own"].median == 8 / 16
    assert seen["real: loads of new versions, of engine time"].values == (0.1, 0.0)
    back = seen["real: loads that bring weights back, of engine time"]
    assert back.values == (0.1, 0.0) and back.ok is False
    assert seen["real:   such loads per new version"].median == 0.25
    assert seen["real: metrics that differ between both ways"].median == 1.0


def test_the_sweeps_of_both_ways_differ_in_the_fleet_alone(tmp_path: Path) -> None:
    train = load_config(TrainConfig, DEFAULT_CONFIG, ())
    ways = {mode: plan_trials(benchmark_sweep(train, mode, 5, str(tmp_path))) for mode in AT_ONCE}
    assert [len(plans) for plans in ways.values()] == [4, 4]
    for one, other in zip(ways["shared"], ways["per_trial"], strict=True):
        assert one.trial_id == other.trial_id
        assert one.config.learner.steps == other.config.learner.steps == 5
        assert one.config.run_dir != other.config.run_dir
        assert one.config.model_copy(update={"runs_dir": ""}) == other.config.model_copy(
            update={"runs_dir": ""}
        )


def window_of(num_trials: int) -> Window:
    """Two engines for ten seconds: 9 s and 8 s of decoding, and half of what full batches would have given."""
    load = SimulatedLoad(
        num_workers=2,
        max_staleness=0,
        prompts_per_step=2,
        group_size=4,
        max_sequences=10,
        max_completion_tokens=100,
        simulation={"step_s": 0.05, "sequence_s": 0.005},
        learn_s=1.0,
        steps=2,
    )
    before = Reading(
        100.0, [Usage(5.0, 1, 0.5, 1, 0.25), Usage(busy_s=1.0)], [2] * num_trials, 500, [1] * num_trials
    )
    after = Reading(
        110.0, [Usage(14.0, 5, 1.0, 3, 0.75), Usage(busy_s=9.0)], [5] * num_trials, 1500, [4] * num_trials
    )
    return Window.between(load, before, after)


def test_a_window_counts_from_its_first_reading_to_its_last() -> None:
    window = window_of(3)
    assert window.seconds == 10.0
    assert window.usage[0] == Usage(busy_s=9.0, loads=4, load_s=0.5, returns=2, return_s=0.5)
    assert window.busy == (0.9, 0.8)
    assert window.groups == window.steps == [3, 3, 3]
    # A full batch of ten takes .1 s: 100 tokens a second and engine.
    assert window.share_of_full_batches == pytest.approx(0.5)
    seen = by_name(window_measures("merged", window))
    assert seen["merged, 3 trials: engines busy"].median == pytest.approx(0.85)
    assert seen["merged, 3 trials: engines busy"].ok is None
    assert seen["merged, 3 trials: loads that bring weights back, of engine time"].values == (0.05, 0.0)
    assert seen["merged, 3 trials: samples per trial"].values == (12.0,) * 3
    assert seen["merged, 3 trials: samples per second"].median == pytest.approx(3.6)


def test_32_trials_are_judged_and_returns_only_where_an_engine_holds_one_version() -> None:
    merged, adapter = (
        by_name(window_measures(delivery, window_of(32))) for delivery in ("merged", "adapter")
    )
    assert merged["merged, 32 trials: engines busy"].ok is False
    assert adapter["adapter, 32 trials: engines busy"].ok is False
    assert merged["merged, 32 trials: loads that bring weights back, of engine time"].ok is False
    assert adapter["adapter, 32 trials: loads that bring weights back, of engine time"].ok is None


def test_check_prints_the_plan_and_zero_counts_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sweep.main(["--check", "--parts", "simulated"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["parts"] == ["simulated"] and shown["load"]["num_workers"] == 8
    for arguments in (["--steps", "0"], ["--rounds", "0"], ["--trials", "4", "0"]):
        with pytest.raises(ConfigError, match=" ".join(arguments)):
            sweep.main(arguments)
