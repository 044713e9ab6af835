"""The benchmark's command lines, limits, differences and process trees."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import evaluation
from benchmarks.loop import benchmark_config
from benchmarks.loop import main as loop_main
from benchmarks.measure import Measure, conclude
from benchmarks.memory import descendants, parents, peak_memory, pss_bytes
from benchmarks.training import agreement_measures, determinism_measures, differing_values, latency_measures
from polyray.config.loader import load_config
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError, PolyrayError

ROOT = Path(__file__).resolve().parents[3]
TRAIN = ROOT / "configs/train/hidden_trap_grid.yaml"


def judged(*values: float, **options: Any) -> bool | None:
    return Measure("x", values, **options).ok


def test_a_limit_holds_for_the_median_or_for_the_worst_value() -> None:
    values = (0.5, 0.9, 0.6)
    assert judged(*values, limit=0.6) is True
    assert judged(*values, limit=0.59) is False
    assert judged(*values, limit=0.8, judged_by="worst") is False
    assert judged(*values, limit=0.9, judged_by="worst") is True
    assert judged(*values, limit=0.6, bound="at least") is True
    assert judged(*values, limit=0.61, bound="at least") is False
    assert judged(*values, limit=0.55, bound="at least", judged_by="worst") is False
    assert judged(*values) is None
    assert judged(math.nan, limit=1.0) is False


def test_an_even_number_of_values_has_a_median_between_two() -> None:
    measure = Measure("x", (4.0, 1.0, 2.0, 3.0))
    assert (measure.median, measure.spread) == (2.5, (1.0, 4.0))


def printed(measure: Measure) -> str:
    return " ".join(measure.line().split())


def test_measure_is_printed_with_its_limit() -> None:
    step = Measure("a step", (0.5, 0.7, 0.6), "s", 0.8)
    assert printed(step) == "ok a step 0.6 s (0.5 to 0.7, n=3) at most 0.8"
    assert printed(Measure("ratio", (0.85,), "", 0.9, "at least")) == "under ratio 0.85 at least 0.9"
    speed = Measure("speed", (4321.4, 4322.6), "tokens/s")
    assert printed(speed) == "speed 4,322 tokens/s (4,321 to 4,323, n=2)"
    over = Measure("difference", (1e-5, 3e-4, 2e-5), "nats", 1e-4, judged_by="worst")
    assert printed(over) == "over difference 2e-05 nats (1e-05 to 0.0003, n=3) worst 0.0003 at most 0.0001"


def test_exit_code_is_zero_only_if_every_limit_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = Measure("a", (1.0,), "s", 2.0), Measure("b", (3.0,), "s", 2.0)
    out = tmp_path / "new" / "out.json"
    assert conclude([good], {"machine": {"cores": 2}}, str(out)) == 0
    assert conclude([good, bad], {}, None) == 1
    written = json.loads(out.read_text())
    assert written["machine"] == {"cores": 2}
    assert [(item["name"], item["median"], item["ok"]) for item in written["measures"]] == [("a", 1.0, True)]
    assert capsys.readouterr().out.count("\n") == 3


def step_line(step: int, **values: float) -> dict[str, Any]:
    line = {"step": step, "generate_s": 0.2, "score_s": 0.01, "learn_s": 0.25, "deliver_s": 0.04}
    return line | {"step_s": 0.55, "loss": 0.1, "idle_learn": 0.5} | values


def test_the_first_steps_warm_up_and_the_rest_is_taken_apart() -> None:
    run = [step_line(step, step_s=9.0 if step < 3 else 0.55) for step in range(6)]
    measures = {measure.name.strip(): measure for measure in latency_measures(run, run)}
    step = measures["one training step"]
    assert (step.values, step.ok) == ((0.55,) * 6, True)
    assert measures["of which learn"].median == 0.25
    assert measures["of which other"].median == pytest.approx(0.05)
    assert measures["publish -> served and proven"].ok is True


def test_agreement_is_judged_by_the_worst_step() -> None:
    keys = ("logprob_difference_max", "logprob_difference_mean", "delivery_difference_max")
    good: dict[str, float] = dict.fromkeys(keys, 5e-6)
    assert [measure.ok for measure in agreement_measures([good] * 5, "float32")] == [True, True, True]
    bad = good | {"logprob_difference_mean": 2e-5}
    assert [m.ok for m in agreement_measures([good] * 4 + [bad], "float32")] == [True, False, True]
    assert all(measure.ok for measure in agreement_measures([bad], "bfloat16"))


def test_only_values_that_do_not_depend_on_the_clock_must_be_equal() -> None:
    first = [step_line(0), step_line(1)]
    assert differing_values(first, [step_line(0, step_s=7.0, idle_learn=0.1), step_line(1)]) == []
    assert differing_values(first, [step_line(0), step_line(1, loss=0.1000001)]) == ["step 1: loss"]
    assert differing_values(first, [step_line(0), step_line(1) | {"more": 1}]) == ["step 1: more"]
    assert differing_values(first, first[:1]) == ["step 1"]
    metrics, adapters = determinism_measures(first, first, same_adapter=False)
    assert (metrics.ok, adapters.ok) == (True, False)


def test_a_process_tree_keeps_children_of_parents_that_ended() -> None:
    tree = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
    assert descendants({10}, tree) == {10, 11, 12}
    # 11 has ended and its child went to process 1; a process started below it meanwhile.
    assert descendants({10, 11, 12}, {1: 0, 10: 1, 12: 1, 13: 12, 20: 1}) == {10, 12, 13}


def test_processes_and_their_memory_are_read_from_proc(tmp_path: Path) -> None:
    for pid, name, parent in ((7, "(a b) c)", 1), (8, "ray::X", 7)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 7 7 0")
    (tmp_path / "7" / "smaps_rollup").write_text(
        "Rss:  900 kB\nPss:  300 kB\nPss_Dirty: 100 kB\nSwapPss: 5 kB\n"
    )
    (tmp_path / "self").mkdir()
    assert parents(tmp_path) == {7: 1, 8: 7}
    assert (pss_bytes(7, tmp_path), pss_bytes(8, tmp_path)) == (300 * 1024, 0)


GROWS_IN_A_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; block = bytearray(80_000_000); time.sleep(1)"], check=True)
"""


def test_peak_memory_includes_grandchildren() -> None:
    samples: list[int] = []
    peak = peak_memory([sys.executable, "-c", GROWS_IN_A_CHILD], samples.append, interval_s=0.05)
    assert 80e6 < peak < 160e6
    assert samples == sorted(samples)
    assert samples[-1] == peak


def test_failed_command_error_has_exit_code_and_last_line() -> None:
    with pytest.raises(PolyrayError, match=r"exit code 1: .*ValueError: no model"):
        peak_memory([sys.executable, "-c", "raise ValueError('no model')"], lambda peak: None, 0.05)


def test_the_benchmark_trains_short_synchronous_and_without_a_missing_warm_start(tmp_path: Path) -> None:
    config = load_config(TrainConfig, TRAIN, ["rollout.max_staleness=2", "model.warm_start=nowhere/adapter"])
    short = benchmark_config(config, 12, "elsewhere")
    assert (short.learner.steps, short.rollout.max_staleness) == (12, 0)
    assert (short.runs_dir, short.model.warm_start) == ("elsewhere", None)
    there = load_config(TrainConfig, TRAIN, [f"model.warm_start={tmp_path}"])
    assert benchmark_config(there, 12, "elsewhere").model.warm_start == str(tmp_path)


def test_check_prints_the_resolved_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert loop_main([str(TRAIN), "--check", "seed=7", "rollout.group_size=8"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["job"], checked["config"]["seed"]) == ("benchmarks loop", 7)
    assert checked["derived"]["completions_per_step"] == 128


def test_evaluation_benchmark_without_data_finds_no_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv(evaluation.SHARED_DATA, raising=False)
    assert evaluation.find_problems(None) is None
    assert evaluation.find_problems("here.jsonl") == Path("here.jsonl")
    monkeypatch.setenv(evaluation.SHARED_DATA, str(tmp_path))
    assert evaluation.find_problems(None) is None
    (tmp_path / "code").mkdir()
    (tmp_path / evaluation.HUMANEVAL).touch()
    assert evaluation.find_problems(None) == tmp_path / evaluation.HUMANEVAL
    assert evaluation.main(["--check", "--part", "sandbox"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == ["sandbox"]
    with pytest.raises(ConfigError, match=r"--repeats 0: .*1"):
        evaluation.main(["--repeats", "0"])


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--steps 3 .*4 steps"):
        loop_main([str(TRAIN), "--steps", "3", "--check"])
