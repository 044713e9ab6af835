"""Running programs: one at a time, or many with bounded work in flight; identical ones once; ours retried.

Called by tasks, rewards and evaluation, from any thread. Runners are kept between calls, one per program that ever
ran at the same time, and end with this process.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from polyray.errors import SandboxError
from polyray.sandbox.program import Limits, Program, ProgramResult
from polyray.sandbox.runner import Runner

MAX_ATTEMPTS = 3
"""Tries of a program with verdict sandbox_error."""
MAX_ERROR_SHARE = 0.01
MIN_ERRORS = 3
"""Sandbox errors that are needed before their share counts."""
IN_FLIGHT_PER_WORKER = 16
"""Programs begun or waiting while the oldest has not finished: one that hangs must not idle the other workers."""
REMEMBERED = 2048
"""Largest number of other programs between two identical ones that run once."""

FILE_PROTECTION = frozenset(("private-root", "landlock", "uid"))

_idle: list[Runner] = []
_lock = threading.Lock()
_level: str | None = None


def isolation_level() -> str:
    """The mechanisms that confine programs here, e.g. "uid+pidns+netns+ipcns+private-root+seccomp+rlimits".

    Probed once per process; what they are is said in polyray/sandbox/forkserver/confine.py. Raises SandboxError
    where no program can be run at all.
    """
    if _level is None:
        _give_back(_take())
    assert _level is not None
    return _level


def run_program(program: Program, limits: Limits | None = None, strict: bool = False) -> ProgramResult:
    """The program's verdict; sandbox_error after MAX_ATTEMPTS tries that failed on our side.

    `strict`: source and tests in two processes, between which only builtin and numpy values cross, guarded or not. No
    source can forge a verdict then.
    """
    limits = limits or Limits()
    message, isolation = "", _level or "unknown"
    for _ in range(MAX_ATTEMPTS):
        try:
            runner = _take()
            result = runner.run(program, limits, strict)
        except SandboxError as error:
            message = str(error)
            continue
        _give_back(runner)
        if result.verdict != "sandbox_error":
            return result
        message, isolation = result.message, result.isolation
    return ProgramResult(
        program.program_id, "sandbox_error", message[:1024], 0.0, 0.0, 0, isolation, stdout=""
    )


def run_programs(
    programs: Iterable[Program], limits: Limits | None = None, workers: int = 2, strict: bool = False
) -> Iterator[ProgramResult]:
    """The results in the order of the programs, while later ones run; memory does not grow with their number.

    Among programs with equal source, test and entry point one runs, the others get its result. Raises SandboxError
    once more than 1 % of the results, and at least MIN_ERRORS, are sandbox errors; ValueError for workers < 1.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: at least 1")
    return _run_all(iter(programs), limits or Limits(), workers, strict)


def _run_all(
    programs: Iterator[Program], limits: Limits, workers: int, strict: bool
) -> Iterator[ProgramResult]:
    in_flight: deque[tuple[str, Future[ProgramResult]]] = deque()
    known: OrderedDict[bytes, Future[ProgramResult]] = OrderedDict()
    num_results = num_errors = 0
    executor = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
    try:
        more = True
        while more or in_flight:
            while more and len(in_flight) < workers * IN_FLIGHT_PER_WORKER:
                program = next(programs, None)
                if program is None:
                    more = False
                    break
                key = _key(program)
                future = known.get(key)
                if future is None:
                    future = known[key] = executor.submit(run_program, program, limits, strict)
                    if len(known) > REMEMBERED:
                        known.popitem(last=False)
                in_flight.append((program.program_id, future))
            if not in_flight:
                return
            program_id, future = in_flight.popleft()
            result = replace(future.result(), program_id=program_id)
            num_results += 1
            num_errors += result.verdict == "sandbox_error"
            if num_errors >= MIN_ERRORS and num_errors > MAX_ERROR_SHARE * num_results:
                raise SandboxError(
                    f"{num_errors} of {num_results} programs could not be run in the sandbox (at most 1 %): "
                    f"{result.message}; isolation {result.isolation}"
                )
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _key(program: Program) -> bytes:
    """Key of a run: equal for programs that run once."""
    digest = hashlib.sha256()
    for text in (program.source, program.test_text, str(program.guarded)):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def _take() -> Runner:
    """An idle runner, or a new one."""
    global _level
    with _lock:
        if _idle:
            return _idle.pop()
    runner = Runner()
    with _lock:
        first, _level = _level is None, _level or runner.isolation
    if first and not FILE_PROTECTION & set(runner.isolation.split("+")):
        logging.getLogger(__name__).warning(
            "untrusted programs run with your rights to files (isolation %s); allow user namespaces, or Landlock "
            "(Linux 5.13), or run as root in a container",
            runner.isolation,
        )
    if runner.isolation != _level:
        runner.close()
        raise SandboxError(f"a fork server came up with isolation {runner.isolation} instead of {_level}")
    return runner


def _give_back(runner: Runner) -> None:
    with _lock:
        _idle.append(runner)


def _close_all() -> None:
    while _idle:
        _idle.pop().close()


def _forget_in_child() -> None:
    """A forked child must not talk on its parent's lines."""
    global _lock
    _lock = threading.Lock()
    while _idle:
        _idle.pop().forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_in_child)
