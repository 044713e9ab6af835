"""Tests that compare a program with a reference on many inputs: HumanEval+ and MBPP+.

    reference --sandbox--> expected outputs --cache file--> test text --sandbox, with a candidate--> verdict

The reference runs in the sandbox like every other program, once per problem; its outputs are kept in
`cache_dir` under a hash of everything they depend on. Inputs that break the problem's contract, or on which the
reference itself fails, do not count. One deviation from EvalPlus: the time limit
is the program's, not one per input. Called by code.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyray.data.code_problems import CodeProblem
from polyray.errors import DataError
from polyray.runs.atomic import atomic_write_json
from polyray.sandbox import Limits, Program, run_program
from polyray.tasks import differential_check
from polyray.tasks.differential_check import as_literal

REFERENCE_LIMITS = Limits(timeout_s=600.0, output_kib=64 * 1024)
_MARKER = "polyray-output "
_EXCLUDED = "!"


def differential_test(problem: CodeProblem, cache_dir: Path, parts: Sequence[str] = ("base", "plus")) -> str:
    """The test text for a program that defines `problem.entry_point`.

    Raises DataError where no input is left to test with.
    """
    cases = [
        f"    ({part!r}, {as_literal(arguments)}, {expected}),\n"
        for part in parts
        for arguments, expected in zip(
            _inputs(problem, part), expected_outputs(problem, part, cache_dir), strict=True
        )
        if not expected.startswith(_EXCLUDED)
    ]
    if not cases and "base" in parts:
        raise DataError(
            f"{problem.task_id}: the reference gave an output for none of its inputs; correct the problem or "
            "leave it out of the file"
        )
    return (
        f"{_loaded_module()}"
        f"_polyray_check['check_outputs']({problem.entry_point}, (\n{''.join(cases)}), {problem.atol!r}, "
        f"{problem.entry_point!r})\n"
    )


def expected_outputs(problem: CodeProblem, part: str, cache_dir: Path) -> tuple[str, ...]:
    """Literal of the reference's output for each input, or "!" and the reason why there is none.

    From the cache or from a run in the sandbox. Raises DataError where the reference cannot be run.
    """
    if not _inputs(problem, part):
        return ()
    program = _reference_program(problem, part)
    version = "{}.{}".format(*sys.version_info)
    content = "\0".join([version, program.source, program.test]).encode("utf-8", "surrogatepass")
    cached = cache_dir / "expected" / f"{hashlib.sha256(content).hexdigest()}.json"
    return _expected_outputs(program, len(_inputs(problem, part)), cached)


@functools.lru_cache(maxsize=2048)
def _expected_outputs(program: Program, num_inputs: int, cached: Path) -> tuple[str, ...]:
    if cached.is_file():
        return tuple(json.loads(cached.read_text(encoding="utf-8")))
    result = run_program(program, REFERENCE_LIMITS)
    lines = [line.removeprefix(_MARKER) for line in result.stdout.splitlines() if line.startswith(_MARKER)]
    if result.verdict != "passed" or len(lines) != num_inputs:
        raise DataError(
            f"{program.program_id}: {len(lines)} outputs for {num_inputs} inputs "
            f"({result.verdict}: {result.message}); correct the problem or leave it out of the file"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(cached, lines)
    return tuple(lines)


def _reference_program(problem: CodeProblem, part: str) -> Program:
    inputs = "".join(f"    {as_literal(arguments)},\n" for arguments in _inputs(problem, part))
    return Program(
        program_id=f"{problem.task_id} reference, {part} inputs",
        source=_with_contract(problem),
        test=(
            f"{_loaded_module()}_polyray_check['print_outputs']({problem.entry_point}, (\n{inputs}), "
            f"{problem.entry_point!r}, {_MARKER!r})\n"
        ),
        guarded=False,
    )


def _with_contract(problem: CodeProblem) -> str:
    """The reference with the asserts on its arguments as its first statements."""
    if problem.continues_prompt:
        return problem.prompt + problem.contract + problem.solution
    head = re.search(
        rf"^def[ \t]+{problem.entry_point}\b[^\n]*:[ \t]*(#[^\n]*)?$", problem.solution, re.MULTILINE
    )
    if head is None:
        return problem.prompt + problem.solution
    return problem.prompt + problem.solution[: head.end()] + problem.contract + problem.solution[head.end() :]


def _inputs(problem: CodeProblem, part: str) -> tuple[Any, ...]:
    return problem.base_inputs if part == "base" else problem.plus_inputs


@functools.cache
def _loaded_module() -> str:
    """Source that loads differential_check.py into a dictionary, so that no name of the program changes."""
    text = Path(differential_check.__file__).read_text(encoding="utf-8")
    return f"_polyray_check = {{}}\nexec({text!r}, _polyray_check)\n"
