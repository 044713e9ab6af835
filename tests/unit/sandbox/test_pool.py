"""Order, laziness, identical programs, retries, the share of errors, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.memory import descendants, parents
from polyray.errors import SandboxError
from polyray.sandbox import Limits, Program, ProgramResult, pool, run_program, run_programs
from polyray.sandbox import runner as runner_module
from polyray.sandbox.runner import Runner

LIMITS = Limits(timeout_s=20)
ROOT = Path(__file__).resolve().parents[3]


def program(number: int, text: str = "") -> Program:
    return Program(f"p{number}", f"print({number}){text}")


def result(name: str, verdict: str = "passed", stdout: str = "") -> ProgramResult:
    return ProgramResult(name, verdict, "", 0.0, 0.0, 0, "none", stdout)  # type: ignore[arg-type]


def test_results_have_the_order_of_the_programs() -> None:
    slow_first = [Program("slow", "import time; time.sleep(0.3); print('slow')"), *map(program, range(9))]
    results = list(run_programs(slow_first, LIMITS, workers=3))
    assert [(r.program_id, r.stdout) for r in results] == [
        ("slow", "slow\n"),
        *((f"p{n}", f"{n}\n") for n in range(9)),
    ]


def test_programs_are_taken_no_faster_than_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "run_program", lambda p, limits, strict: result(p.program_id))
    taken: list[int] = []

    def endless() -> Iterator[Program]:
        number = 0
        while True:
            taken.append(number)
            yield program(number)
            number += 1

    results = run_programs(endless(), LIMITS, workers=2)
    assert taken == []
    assert [next(results).program_id for _ in range(1000)] == [f"p{n}" for n in range(1000)]
    assert len(taken) <= 1000 + 2 * pool.IN_FLIGHT_PER_WORKER
    results.close()  # type: ignore[attr-defined]


def test_identical_programs_run_once_within_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(p: Program, limits: Limits, strict: bool) -> ProgramResult:
        ran.append(p.program_id)
        return result(p.program_id, stdout=p.source)

    monkeypatch.setattr(pool, "run_program", run)
    same = [Program(f"s{n}", "x = 1", "assert x", None) for n in range(50)]
    other = [
        Program("other test", "x = 1", "assert x == 1"),
        Program("split elsewhere", "x = 1\nassert x", ""),
        Program("with entry", "x = 1", "assert x", "f"),
    ]
    results = list(run_programs([*same, *other], LIMITS, workers=2))
    assert [r.program_id for r in results] == [p.program_id for p in (*same, *other)]
    assert sorted(ran) == sorted(["s0", "other test", "split elsewhere", "with entry"])
    monkeypatch.setattr(pool, "REMEMBERED", 10)
    ran.clear()
    list(run_programs(map(program, [0, *range(1, 9), 0, *range(10, 60), 0]), LIMITS, workers=1))
    assert ran.count("p0") == 2


class FailingRunner:
    """Fails as often as told, then answers."""

    isolation = "none"
    closed = 0

    def __init__(self, failures: int, verdict: str = "passed") -> None:
        self.failures, self.verdict, self.calls = failures, verdict, 0

    def run(self, p: Program, limits: Limits, strict: bool) -> ProgramResult:
        self.calls += 1
        if self.calls <= self.failures:
            return result(p.program_id, "sandbox_error")
        return result(p.program_id, self.verdict)


@pytest.mark.parametrize(
    ("failures", "verdict", "calls", "expected"),
    [(0, "failed", 1, "failed"), (2, "passed", 3, "passed"), (3, "passed", 3, "sandbox_error")],
)
def test_sandbox_errors_alone_are_retried(
    monkeypatch: pytest.MonkeyPatch, failures: int, verdict: str, calls: int, expected: str
) -> None:
    runner = FailingRunner(failures, verdict)
    monkeypatch.setattr(pool, "_take", lambda: runner)
    monkeypatch.setattr(pool, "_give_back", lambda given: None)
    assert run_program(program(1), LIMITS).verdict == expected
    assert runner.calls == calls


def test_more_than_one_percent_of_sandbox_errors_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(numbers: set[int]) -> None:
        def run(p: Program, limits: Limits, strict: bool) -> ProgramResult:
            return result(p.program_id, "sandbox_error" if int(p.program_id[1:]) in numbers else "passed")

        monkeypatch.setattr(pool, "run_program", run)

    failing({0, 1})
    verdicts = [r.verdict for r in run_programs(map(program, range(20)), LIMITS)]
    assert verdicts[:3] == ["sandbox_error", "sandbox_error", "passed"]
    failing({100, 200, 299})
    assert len(list(run_programs(map(program, range(300)), LIMITS))) == 300
    failing({100, 200, 298})
    with pytest.raises(SandboxError, match=r"\b3 of 299\b.*\b1 %"):
        list(run_programs(map(program, range(300)), LIMITS))


def test_dead_server_is_replaced() -> None:
    assert run_program(program(1), LIMITS).passed
    runner = pool._idle[-1]
    os.kill(runner._server.pid, signal.SIGKILL)
    again = run_program(program(2), LIMITS)
    assert (again.verdict, again.stdout) == ("passed", "2\n")
    assert runner not in pool._idle


def test_dead_server_ends_its_program_at_once() -> None:
    runner = Runner()
    seen: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(Program("a", "while True: pass"), LIMITS, strict=False)
        except SandboxError as error:
            seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    os.kill(runner._server.pid, signal.SIGKILL)
    thread.join(10)
    assert len(seen) == 1 and not thread.is_alive()


def test_concurrent_callers_get_their_own_results() -> None:
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda n: run_program(program(n), LIMITS), range(24)))
    assert [r.stdout for r in results] == [f"{n}\n" for n in range(24)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_programs([], workers=0), r"workers=0\b.*\b1\b"),
        (lambda: Limits(timeout_s=0), "timeout_s=0"),
        (lambda: Limits(memory_mib=1), r"memory_mib=1\b.*\b64\b"),
    ],
)
def test_bad_argument_is_named_with_its_limit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_forked_child_leaves_the_runners_to_its_parent() -> None:
    assert run_program(program(1), LIMITS).passed
    kept = list(pool._idle)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if pool._idle == [] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert pool._idle == kept
    assert run_program(program(2), LIMITS).stdout == "2\n"


def test_interpreter_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_BOOTSTRAP", "raise ValueError('broken start')")
    with pytest.raises(SandboxError, match=r"\b60 s\b.*ValueError: broken start"):
        Runner()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(SandboxError, match=r"/nowhere/python .*No such file"):
        Runner()


CALLER = """
import sys
from polyray.sandbox import Limits, Program, pool, run_program
run_program(Program("a", "print(1)"), Limits())
print(pool._idle[0]._server.pid, flush=True)
run_program(Program("a", "while True: pass"), Limits(timeout_s=600))
"""


def test_servers_and_programs_end_with_a_caller_that_is_killed() -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert caller.stdout is not None
    server = int(caller.stdout.readline())
    deadline = time.monotonic() + 20
    # Two servers, a namespace's first process, the program.
    running = 4 if "pidns" in pool.isolation_level() else 2
    while len(below := descendants({server}, parents())) < running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(below) == running
    caller.kill()
    caller.wait()
    caller.stdout.close()
    while below & parents().keys() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert below & parents().keys() == set()
