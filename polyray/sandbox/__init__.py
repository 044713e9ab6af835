"""Running untrusted programs: judged by trusted tests, confined by the kernel, proven by a one-time token. No ray.

    program.py   Program, Limits, ProgramResult      pool.py     run_program, run_programs, isolation_level
    runner.py    one fork server and its line        forkserver/ the code on the other side of that line

forkserver/execute.py, split.py and confine.py describe the attacks that it stops. Callers ask for the user's
consent (`--allow-code-execution`, `reward.allow_code_execution`); nothing here does.
"""

from polyray.sandbox.pool import isolation_level, run_program, run_programs
from polyray.sandbox.program import Limits, Program, ProgramResult, Verdict

__all__ = [
    "Limits",
    "Program",
    "ProgramResult",
    "Verdict",
    "isolation_level",
    "run_program",
    "run_programs",
]
