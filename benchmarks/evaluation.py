"""Measures evaluation: the sandbox, the metrics and their memory on this machine; no model, no Ray.

sandbox: HumanEval's canonical solutions per second with two workers, beside the bare start of an interpreter, and
adversarial programs of polyray's own, of which none may pass. HumanEval's file is given by --problems or found at
code/HumanEval.jsonl.gz in the directory that POLYRAY_SHARED_DATA names. metrics: self-BLEU, USQ and bootstrap of
1,000 prompts x 16 candidates. memory: scoring ten times the samples in the same memory.

  python -m benchmarks evaluation --problems HumanEval.jsonl.gz
  python -m benchmarks evaluation --part sandbox --repeats 5 --out evaluation.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.evaluation_memory import memory_measures
from benchmarks.evaluation_metrics import metric_measures
from benchmarks.measure import REFERENCE_SPEED, Measure, conclude, machine
from polyray.cli.arguments import JobParser

WORKERS = 2
LIMIT_PROGRAMS_PER_S = 60.0
LIMIT_ADVERSARIES_S = 60.0
SHARED_DATA = "POLYRAY_SHARED_DATA"
HUMANEVAL = "code/HumanEval.jsonl.gz"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks evaluation", __doc__)
    parser.add_argument(
        "--part", choices=list(PARTS), action="append", help="measure this; default: every part"
    )
    parser.add_argument("--problems", metavar="FILE", help="HumanEval.jsonl or HumanEval.jsonl.gz")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of all passing programs; the median counts"
    )
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: at least 1")
    parts = options.part or list(PARTS)
    if options.check:
        print(json.dumps({"job": "benchmarks evaluation", "parts": parts, "repeats": options.repeats}))
        return 0
    before = machine()
    print(
        f"a core ran {before['core_speed']} million loop turns/s (the limits of seconds: {REFERENCE_SPEED:g})"
    )
    measures = [measure for part in parts for measure in PARTS[part](options)]
    return conclude(measures, {"machine": before}, options.out)


def measure_sandbox(options: Namespace) -> list[Measure]:
    """Passing programs a second, and adversaries."""
    from polyray.sandbox import isolation_level

    print(f"isolation: {isolation_level()}")
    problems = find_problems(options.problems)
    if problems is None:
        print(
            f"skipped passing programs: give HumanEval's file by --problems, or its directory by {SHARED_DATA}"
        )
        return _adversaries()
    return [*_passing(problems, options.repeats), *_adversaries()]


def find_problems(given: str | None) -> Path | None:
    """HumanEval's file: the one given, or the shared one if it is there."""
    if given is not None:
        return Path(given)
    shared = os.environ.get(SHARED_DATA)
    path = None if shared is None else Path(shared) / HUMANEVAL
    return path if path is not None and path.exists() else None


def _passing(path: Path, repeats: int) -> list[Measure]:
    from polyray.config.task import CodeSpec
    from polyray.data.code_problems import load_code_problems
    from polyray.sandbox import Limits, Program, run_programs

    problems = load_code_problems(CodeSpec(path=str(path), held_out="all")).held_out
    programs = [Program(p.task_id, p.prompt + p.solution, p.test, p.entry_point) for p in problems]
    limits = Limits(timeout_s=30.0)  # generous: slow programs on a busy machine count too
    rates, failed = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        results = list(run_programs(programs, limits, WORKERS))
        rates.append(len(results) / (time.perf_counter() - started))
        failed.append(float(sum(not result.passed for result in results)))
    start_s = bare_start_s()
    return [
        Measure(f"passing programs, {WORKERS} workers", tuple(rates), "programs/s", LIMIT_PROGRAMS_PER_S, "at least"),
        Measure("of these, failed", tuple(failed), "programs", 0, judged_by="worst"),
        Measure("start of a bare interpreter", (start_s,), "s"),
        Measure("a worker's time per program", tuple(WORKERS / rate / start_s for rate in rates), "bare starts"),
    ]  # fmt: skip


def bare_start_s(repeats: int = 10) -> float:
    """Seconds of `python -I -c pass`, the median: what a fresh interpreter per program would cost at least."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def _adversaries() -> list[Measure]:
    from benchmarks.adversarial import adversarial_programs
    from polyray.sandbox import Limits, run_programs

    with tempfile.TemporaryDirectory() as outside:
        Path(outside, "kept").write_text("kept", encoding="utf-8")
        programs = adversarial_programs(outside, f"polyray-benchmark-{os.getpid()}")
        started = time.perf_counter()
        results = list(run_programs(programs, Limits(memory_mib=1024), WORKERS))
        seconds = time.perf_counter() - started
        touched = [path.name for path in Path(outside).iterdir()] != ["kept"]
        touched = touched or Path(outside, "kept").read_text(encoding="utf-8") != "kept"
    passed = sum(result.passed for result in results)
    name = f"{len(programs)} adversarial programs"
    return [
        Measure(f"{name}, {WORKERS} workers", (seconds,), "s", LIMIT_ADVERSARIES_S),
        Measure(f"{name}, passed", (float(passed),), "programs", 0),
        Measure(f"{name}, files outside touched", (float(touched),), "", 0),
    ]


PARTS: dict[str, Callable[[Namespace], list[Measure]]] = {
    "sandbox": measure_sandbox,
    "metrics": lambda options: metric_measures(),
    "memory": lambda options: memory_measures(),
}
"""Parts of the benchmark by the name that --part takes; each prints why it leaves something out."""
