"""Inputs and results of the sandbox. Plain data; nothing runs here.

Called by tasks (they build a Program), by the runner and by readers of results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "timeout", "memory", "crashed", "no_verdict", "sandbox_error"]


@dataclass(frozen=True, slots=True)
class Program:
    """An untrusted program and the trusted tests that judge it.

    The source is executed as module `candidate` (so a main guard is not taken), then the test in the same
    namespace, then `check(entry_point)` where an entry point is given.

    Example:
        Program("HumanEval/0", "def f(x):\\n    return x + 1\\n", "def check(f):\\n    assert f(1) == 2\\n", "f")
    """

    program_id: str
    source: str
    """Untrusted."""
    test: str = ""
    """Trusted: from the data set."""
    entry_point: str | None = None
    guarded: bool = True
    """Results of the source are compared as builtin and numpy values, and objects of other classes are refused.
    False: the tests compare other objects, or look at types themselves."""

    @property
    def test_text(self) -> str:
        """The tests with the call of `check`."""
        call = f"\ncheck({self.entry_point})" if self.entry_point else ""
        return f"{self.test}{call}\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one program; every limit is hard. The CPU limit is timeout_s + 1, rounded up.

    Example:
        Limits(timeout_s=10.0)
    """

    timeout_s: float = 3.0
    """Wall clock from the start of the program's process."""
    memory_mib: int = 4096
    """Address space of each process; numpy alone maps more than 1 GiB."""
    output_kib: int = 64
    """Kept of stdout and of stderr each; the rest is read and dropped."""
    file_mib: int = 64
    """The largest file."""
    num_files: int = 128
    """Open file descriptors."""
    num_processes: int = 32
    """Processes and threads; does not bind a root that cannot give up being root."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 86_400:
            raise ValueError(f"timeout_s={self.timeout_s}: more than 0 and at most 86400 s")
        for name, least in (
            ("memory_mib", 64),
            ("output_kib", 1),
            ("file_mib", 1),
            ("num_files", 16),
            ("num_processes", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: at least {least}")


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """Result of one program.

    Example:
        ProgramResult("HumanEval/0", "failed", "AssertionError: 3", 0.021, 0.015, 11_534_336,
                      "uid+pidns+netns+ipcns+private-root+seccomp+rlimits", "")
    """

    program_id: str
    verdict: Verdict
    """passed: the tests returned. failed: an exception. no_verdict: it ended before the tests returned. crashed: a
    signal ended it. sandbox_error: ours, not the program's; unscored."""
    message: str
    """Reason why it did not pass, at most 1 KiB; empty for passed."""
    wall_s: float
    cpu_s: float
    max_rss: int
    """Bytes, of the largest process."""
    isolation: str
    """`isolation_level()` of the process that ran it."""
    stdout: str
    r"""Standard output, at most output_kib; bytes that are not UTF-8 are shown as \xNN."""

    @property
    def passed(self) -> bool:
        """Whether the tests returned."""
        return self.verdict == "passed"
