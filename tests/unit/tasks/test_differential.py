"""Outputs compared with a reference's: EvalPlus's rules, in this process and in the sandbox."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import CodeSpec
from polyray.errors import DataError
from polyray.sandbox import Limits, run_program, run_programs
from polyray.tasks import differential_check
from polyray.tasks.code import CodeTask
from polyray.tasks.differential import expected_outputs
from polyray.tasks.differential_check import as_literal, check_outputs, matches
from tests.data_sets import shared_data

LIMITS = Limits(timeout_s=10.0)


class AlwaysEqual:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class Likeable(list):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("output", "expected", "atol", "same"),
    [
        (3, 3.0, 0.0, True),
        ((1, 2), [1, 2], 0.0, False),
        (0.1 + 0.2, 0.3, 0.0, True),
        (0.3 + 1e-5, 0.3, 0.0, False),
        (0.3 + 1e-5, 0.3, 1e-4, True),
        ([0.3], [0.3, 1.0], 0.1, False),
        ([[0.1 + 0.2]], [[0.3]], 0.0, False),
        (3, 3.0000001, 1e-3, False),
        ({"a": 1}, collections.Counter("a"), 0.0, True),
        (math.nan, math.nan, 0.0, False),
        (AlwaysEqual(), 5, 0.0, False),
        (Likeable([1]), [2], 0.0, False),
        ({1: AlwaysEqual()}, {1: 5}, 1.0, False),
        (True, 1, 0.0, True),
    ],
)
def test_matches_accepts_equal_or_close_outputs(output: Any, expected: Any, atol: float, same: bool):
    assert matches(output, expected, [], atol) is same


@pytest.mark.parametrize(
    ("oracle", "output", "expected", "arguments", "same"),
    [
        ("set", [1, 1, 2], (2, 1), [], True),
        ("set", [1], (2, 1), [], False),
        ("not_none", None, False, [], True),
        ("not_none", False, True, [], False),
        ("anything", "x", 3, [], True),
        ("or_zero", 0, 7, [], True),
        ("or_zero", 1, 7, [], False),
        ("pyramid", 35, 34, [3, 4], True),
        ("digits", 7, 5, [123, 256], True),
        ("root", 2.0, 1.0, [[-6, 11, -6, 1]], True),
        ("root", 2.5, 1.0, [[-6, 11, -6, 1]], False),
    ],
)
def test_matches_follows_the_oracle_of_a_problem(
    oracle: str, output: Any, expected: Any, arguments: Any, same: bool
):
    assert matches(output, expected, arguments, 1e-4, oracle) is same


@pytest.mark.parametrize(
    "value",
    [
        None, True, -3, 1.5, math.inf, -math.inf, 2 - 1j, "a\n\ud800é", b"\x00", [], [1, [2]], (), (1,),
        set(), {1, 2}, frozenset({3}), {}, {"a": (1, {2: None})}, 10**18, "'''\"",
    ],
)  # fmt: skip
def test_literals_are_ascii_and_evaluate_to_the_value(value: Any):
    text = as_literal(value)
    assert text.isascii() and "\n" not in text
    assert eval(text) == value and type(eval(text)) is type(value)


def test_non_literal_is_refused():
    assert as_literal(collections.OrderedDict(a=1)) == as_literal({"a": 1})
    assert math.isnan(eval(as_literal(math.nan)))
    assert eval(as_literal(10**5000)) == 10**5000, "longer than Python converts to decimal"
    with pytest.raises(TypeError, match="object"):
        as_literal(object())


def test_first_wrong_output_is_named_with_its_original_arguments():
    def pops(xs: list[int]) -> int:
        return xs.pop()

    check_outputs(pops, [("base", [[1, 2]], 2)], 0.0, "pops")
    check_outputs(abs, [("base", [10**5000], 10**5000)], 0.0, "abs")
    with pytest.raises(AssertionError, match=r"base input 0: abs\(\*<list>\).*<int>.* 1\b"):
        check_outputs(abs, [("base", [10**5000], 1)], 0.0, "abs")
    with pytest.raises(AssertionError, match=r"plus input 1: pops\(\*\[\[3\]\]\).* 3, .* 4\b"):
        check_outputs(pops, [("base", [[1, 2]], 2), ("plus", [[3]], 4)], 0.0, "pops")


ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'def half(x):\n    """x / 2"""\n',
    "entry_point": "half",
    "canonical_solution": "    print('noise')\n    while x > 99:\n        pass\n    return x / 2\n",
    "contract": "    assert x >= 0\n",
    "base_input": [[1], [2]],
    "plus_input": [[-1], [3], [1000], [40]],
    "atol": 0,
}


def task_of(tmp_path: Path, row: dict[str, Any]) -> CodeTask:
    path = tmp_path / "plus.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return CodeTask(CodeSpec(path=str(path), held_out="all", cache_dir=str(tmp_path / "cache")))


def test_base_and_plus_inputs_have_verdicts_of_their_own(tmp_path: Path):
    task = task_of(tmp_path, ROW)
    (prompt,) = task.held_out_prompts()
    (problem,) = task.problems.held_out
    base, plus = (expected_outputs(problem, part, tmp_path / "cache") for part in ("base", "plus"))
    assert not any(expected.startswith("!") for expected in base)
    reasons = [expected.partition(":")[0] for expected in plus if expected.startswith("!")]
    assert reasons == ["!AssertionError", "!TimeoutError"], "inputs that do not count"
    small_only = "    assert x < 10\n    return x / 2\n"
    parts = task.programs(prompt, small_only).items()
    assert {part: run_program(program, LIMITS).verdict for part, program in parts} == {
        "base": "passed",
        "plus": "failed",
    }
    lies = "    class L:\n        def __eq__(self, o): return True\n    return L()\n"
    for body, strict, verdict in (
        (small_only, False, "failed"),
        (lies, False, "failed"),
        ("    return x / 2\n", False, "passed"),
        ("    return x / 2\n", True, "passed"),
    ):
        assert run_program(task.program(prompt, body), LIMITS, strict=strict).verdict == verdict


def test_expected_outputs_are_computed_once_and_again_for_another_reference(tmp_path: Path):
    task = task_of(tmp_path, {**ROW, "plus_input": []})
    (prompt,) = task.held_out_prompts()
    task.program(prompt, "")
    (cached,) = (tmp_path / "cache/expected").iterdir()
    assert json.loads(cached.read_text()) == ["0.5", "1.0"]
    cached.write_text(json.dumps(["0.5", "7.0"]))
    assert "7.0" not in task.program(prompt, "").test, "kept in memory"
    other = task_of(tmp_path, {**ROW, "plus_input": [], "canonical_solution": "    return x\n"})
    other.program(prompt, "")
    assert len(list((tmp_path / "cache/expected").iterdir())) == 2


def test_reference_without_any_output_is_named(tmp_path: Path):
    for solution, message in (("raise KeyError(x)", "HumanEval/0"), ("return (", r"base inputs: 0 .* 2\b")):
        task = task_of(tmp_path, {**ROW, "canonical_solution": f"    {solution}\n"})
        with pytest.raises(DataError, match=message):
            task.program(task.held_out_prompts()[0], "    return 1")


def test_function_called_check_is_judged(tmp_path: Path):
    row = {
        **ROW,
        "task_id": "Mbpp/56",
        "prompt": '"""\nDouble.\n"""',
        "entry_point": "check",
        "canonical_solution": "def matches(x): return 2 * x\ndef check(x):\n    return matches(x)\n",
        "contract": "",
        "assertion": "assert check(1) == 2",
        "plus_input": [],
    }
    task = task_of(tmp_path, row)
    (prompt,) = task.held_out_prompts()
    assert run_program(task.program(prompt, row["canonical_solution"]), LIMITS).verdict == "passed"
    assert run_program(task.program(prompt, "def check(x):\n    return x\n"), LIMITS).verdict == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        {
            "path": "code/HumanEval.jsonl.gz",
            "reference_path": "code/HumanEvalPlus-2023-04-base.jsonl",
            "inputs_path": "code/HumanEvalPlusInputs-2023-04.jsonl",
        },
        {"path": "code/MbppPlus-2023-11.jsonl.gz"},
    ],
    ids=["humaneval_plus", "mbpp_plus"],
)
def test_references_pass_their_own_tests(files: dict[str, str], tmp_path: Path):
    fields: dict[str, Any] = {name: str(shared_data(file)) for name, file in files.items()}
    task = CodeTask(CodeSpec(**fields, held_out="all", stop=(), cache_dir=str(tmp_path)))
    prompts = task.held_out_prompts()
    programs = (task.program(prompt, task.reference(prompt) or "") for prompt in prompts)
    results = run_programs(programs, Limits(timeout_s=60.0))
    assert collections.Counter(result.verdict for result in results) == {"passed": len(prompts)}


def test_time_limit_during_redirection_of_output_loses_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes where it likes: here after the output was redirected, before the with block began."""
    handler = signal.getsignal(signal.SIGVTALRM)

    class Interrupted(contextlib.redirect_stdout[io.StringIO]):
        def __enter__(self) -> io.StringIO:
            super().__enter__()
            raise TimeoutError("too slow")

    monkeypatch.setattr(differential_check.contextlib, "redirect_stdout", Interrupted)
    try:
        differential_check.print_outputs(lambda x: x, [(1,), (2,)], "f", "M ")
    finally:
        signal.signal(signal.SIGVTALRM, handler)
    assert capsys.readouterr().out == "\n" + "M !TimeoutError: 'too slow'\n" * 2
