"""Programming problems: formats, the split of MBPP, argument types that JSON lost, broken files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import CodeSpec
from polyray.data.argument_types import typed_inputs
from polyray.data.code_problems import load_code_problems
from polyray.errors import DataError
from tests.data_sets import shared_data

USES = ("few_shot", "held_out", "validation", "training")
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(f):\n    assert f(1) == 1\n",
}


def mbpp(number: int, **changes: Any) -> dict[str, Any]:
    code, tests = "def f():\r\n  return 1", ["assert f() == 1"]
    return {"task_id": number, "text": "Say 1.", "code": code, "test_list": tests, **changes}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_mbpp_is_split_as_published(tmp_path: Path):
    path = write(tmp_path / "mbpp.jsonl", *(mbpp(number) for number in range(1, 975)))
    problems = load_code_problems(CodeSpec(path=path))
    numbers = [[int(p.task_id.removeprefix("Mbpp/")) for p in getattr(problems, use)] for use in USES]
    assert numbers == [list(range(*ends)) for ends in ((1, 11), (11, 511), (511, 601), (601, 975))]
    everything = load_code_problems(CodeSpec(path=path, held_out="all"))
    assert len(everything.held_out) == 974 and not everything.training and not everything.validation


def test_mbpp_asks_with_a_docstring_and_one_test(tmp_path: Path):
    row = mbpp(11, test_setup_code="x = 1\r\ny = 2", test_list=["assert f() == x", "assert f() != y"])
    (problem,) = load_code_problems(CodeSpec(path=write(tmp_path / "m.jsonl", row))).held_out
    assert problem.prompt == '"""\nSay 1.\nassert f() == x\n"""\n'
    assert problem.solution == "def f():\n  return 1"
    assert problem.test == "x = 1\ny = 2\nassert f() == x\nassert f() != y"
    assert problem.entry_point is None
    assert problem.description.splitlines()[-2:] == ["assert f() == x", "assert f() != y"]
    sanitised = {**row, "prompt": row["text"], "test_imports": ["import math"]}
    del sanitised["text"], sanitised["test_setup_code"]
    (problem,) = load_code_problems(CodeSpec(path=write(tmp_path / "s.jsonl", sanitised))).held_out
    assert problem.test.splitlines()[0] == "import math"


def test_humaneval_is_held_out_as_a_whole_and_gz_is_read(tmp_path: Path):
    path = tmp_path / "h.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode() + b"\n\n"))
    problems = load_code_problems(CodeSpec(path=str(path)))
    assert [problem.task_id for problem in problems.held_out] == ["HumanEval/0"]
    assert problems.training == ()


def test_training_problems_come_from_train_path_and_are_never_held_out(tmp_path: Path):
    held_out = write(tmp_path / "h.jsonl", HUMANEVAL)
    train = write(tmp_path / "m.jsonl", *(mbpp(number) for number in (3, 20, 520, 700)))
    problems = load_code_problems(CodeSpec(path=held_out, train_path=train))
    assert [problem.task_id for problem in problems.training] == ["Mbpp/700"]
    assert [problem.task_id for problem in problems.validation] == ["Mbpp/520"]
    assert [problem.task_id for problem in problems.few_shot] == ["Mbpp/3"]
    with pytest.raises(DataError, match=r"'HumanEval/0'.*\b0 others"):
        load_code_problems(CodeSpec(path=held_out, train_path=held_out))


def test_plus_format_of_the_release_is_read(tmp_path: Path):
    row = {
        "task_id": "Mbpp/20", "prompt": '"""\nAdd.\n"""', "entry_point": "f", "atol": 1e-6,
        "canonical_solution": "def f(xs):\n    return sum(xs)\n",
        "contract": "\n    assert isinstance(xs, tuple)\n", "assertion": "assert f((1, 2)) == 3",
        "base_input": [[[1, 2]]], "plus_input": [[[4, 5, 6]]],
    }  # fmt: skip
    (problem,) = load_code_problems(CodeSpec(path=write(tmp_path / "p.jsonl", row))).held_out
    assert (problem.dataset, problem.atol, problem.is_differential) == ("mbpp_plus", 1e-6, True)
    assert problem.base_inputs == ([(1, 2)],) and problem.plus_inputs == ([(4, 5, 6)],)
    assert problem.prompt == '"""\nAdd.\n"""\n' and not problem.continues_prompt


def test_three_files_of_humaneval_plus_2023_are_joined(tmp_path: Path):
    prompts = write(tmp_path / "h.jsonl", HUMANEVAL, {**HUMANEVAL, "task_id": "HumanEval/1"})
    patch = {"contract": "", "reference": "    return int(x)\n", "base_input": [[1]], "atol": 0}
    patches = write(tmp_path / "plus.jsonl", patch, patch)
    inputs = write(tmp_path / "inputs.jsonl", {"task_id": "HumanEval_1", "inputs": [[2], [3]]})
    spec = CodeSpec(path=prompts, reference_path=patches, inputs_path=inputs)
    first, second = load_code_problems(spec).held_out
    assert first.solution == "    return int(x)\n" and first.dataset == "humaneval_plus"
    assert first.plus_inputs == () and second.plus_inputs == ([2], [3])
    one = write(tmp_path / "one.jsonl", patch)
    with pytest.raises(DataError, match=r"\b1 rows.*\b2\b"):
        load_code_problems(CodeSpec(path=prompts, reference_path=one))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HUMANEVAL, HUMANEVAL], r"p.jsonl:2.*task_id 'HumanEval/0'.*\b1\b"),
        ([{**HUMANEVAL, "test": 3}], "p.jsonl:1.*'test'.*int.*str"),
        ([{**HUMANEVAL, "part": "exam"}], "'exam'"),
        ([mbpp(11, test_list=[])], r"task_id 11\b"),
        ([mbpp(0)], r"task_id 0\b.*MBPP"),
        ([mbpp(601)], "task.held_out=all"),
        ([mbpp(11), HUMANEVAL], "p.jsonl:2.*'task_id'.*str.*int"),
        ([{"question": "?"}], r"question.*HumanEval\.jsonl\.gz"),
        ([{"reference": "", "base_input": []}], r"task\.path.*HumanEval\.jsonl\.gz"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, rows: list[dict[str, Any]], message: str):
    with pytest.raises(DataError, match=message):
        load_code_problems(CodeSpec(path=write(tmp_path / "p.jsonl", *rows)))


def test_missing_data_set_error_names_its_source(tmp_path: Path):
    with pytest.raises(DataError, match=r"openai/human-eval.*google-research.*evalplus"):
        load_code_problems(CodeSpec(path=str(tmp_path / "none.jsonl")))
    path = write(tmp_path / "p.jsonl", HUMANEVAL)
    with pytest.raises(DataError, match=r"task\.dataset=mbpp"):
        load_code_problems(CodeSpec(path=path, dataset="mbpp"))


@pytest.mark.parametrize(
    ("assertion", "base", "plus", "expected"),
    [
        ("assert f((1, 2), [3]) == 4", [[[1, 2], [3]]], [[[7], [8, 9]]], [[(7,), [8, 9]]]),
        ("assert f([(1, 'a')]) == 4", [[[[1, "a"]]]], [[[[2, "b"], [3, "c"]]]], [[[(2, "b"), (3, "c")]]]),
        ("assert f((1, (2, (3, 4)))) == 4", [[[1, [2, [3, 4]]]]], [[[[[[5]]]]]], [[((((5,),),),)]]),
        ("assert f((1, 2)) == 4", [[[1, 2]]], [[[[5], 6]]], [[([5], 6)]]),
        ("assert f({1, 2}) == 4", [[[1, 2]]], [[[3, 3]]], [[{3}]]),
        ("assert f({'a': (1, 2)}) == 4", [[{"a": [1, 2]}]], [[{"b": [3]}]], [[{"b": (3,)}]]),
        ("assert f(0, 1j) == 4", [["0", "1j"]], [["-1.5", "(2-1j)"]], [[-1.5, 2 - 1j]]),
        ("assert f(1) == 4", [[1]], [["5j"], ["x"]], [[5j], ["x"]]),
        ("import math\nassert math.isclose(f((1,)), 2)", [[[1]]], [[[2]]], [[(2,)]]),
        ("assert f('12') == 4", [["12"]], [["34"]], [["34"]]),
        ("assert f(g()) == 4", [[[1]]], [[[2]]], [[[2]]]),
        ("assert f((", [[[1]]], [[[2]]], [[[2]]]),
    ],
)
def test_argument_types_match_the_asserts(assertion: str, base: Any, plus: Any, expected: Any):
    typed = typed_inputs(assertion, "f", base, plus)[1]
    assert repr(typed) == repr(expected)


def test_real_files_have_published_sizes():
    problems = load_code_problems(CodeSpec(path=str(shared_data("code/mbpp.jsonl"))))
    sizes = [len(getattr(problems, use)) for use in USES]
    assert sizes == [10, 500, 90, 374]
    path = str(shared_data("code/MbppPlus-2023-11.jsonl.gz"))
    by_id = {p.task_id: p for p in load_code_problems(CodeSpec(path=path, held_out="all")).held_out}
    assert len(by_id) == 399
    assert by_id["Mbpp/2"].plus_inputs[1] == [(1, 2, 3), ()]
    assert by_id["Mbpp/124"].base_inputs[0] == [0.0, 1j]
    assert isinstance(by_id["Mbpp/63"].plus_inputs[0][0][0], tuple)
