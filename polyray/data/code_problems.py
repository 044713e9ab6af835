"""Programming problems from files: HumanEval, HumanEval+, MBPP, MBPP+, and the small set polyray ships.

    load_code_problems(CodeSpec(path="HumanEval.jsonl.gz")).held_out -> (CodeProblem, ...)

The data set is told from the fields of the first row. Nothing is downloaded, and nothing here runs a program:
that is polyray/sandbox. Called by tasks/code.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from polyray.config.verifiable_tasks import CodeSpec
from polyray.data.argument_types import typed_inputs
from polyray.data.fields import required
from polyray.data.json_lines import read_objects
from polyray.data.sources import WHERE_TO_GET, data_path
from polyray.errors import DataError

Dataset = Literal["humaneval", "humaneval_plus", "mbpp", "mbpp_plus"]
Part = Literal["train", "validation", "test", "few_shot"]

MBPP_PARTS: tuple[tuple[Part, range], ...] = (
    ("few_shot", range(1, 11)),
    ("test", range(11, 511)),
    ("validation", range(511, 601)),
    ("train", range(601, 975)),
)
"""The split of the paper (arXiv 2108.07732, section 2.1), by task_id."""

_EXAMPLE = (
    '{"task_id": "HumanEval/0", "prompt": ..., "entry_point": ..., "canonical_solution": ..., "test": ...}'
)


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """One problem.

    Example:
        CodeProblem(task_id="HumanEval/53", dataset="humaneval", part="test", prompt="def add(x, y): ...",
                    solution="    return x + y", entry_point="add", test="def check(candidate): ...")
    """

    task_id: str
    dataset: Dataset
    part: Part
    prompt: str
    """Text to be continued: a signature with its docstring, or a docstring alone."""
    solution: str
    """A correct continuation of `prompt`."""
    entry_point: str | None
    """The function that `check(candidate)` is called with; None where `test` is a list of asserts."""
    test: str
    """Follows the program; "" where outputs are compared with those of the solution."""
    description: str = ""
    """Question for a chat model."""
    base_inputs: tuple[Any, ...] = ()
    """Argument lists; of the plus data sets only."""
    plus_inputs: tuple[Any, ...] = ()
    atol: float = 0.0
    contract: str = ""
    """Asserts on the arguments, as the first statements of the solution."""

    @property
    def is_differential(self) -> bool:
        """True where outputs are compared with those of the solution."""
        return self.dataset in ("humaneval_plus", "mbpp_plus")

    @property
    def continues_prompt(self) -> bool:
        """True where the program is prompt + completion; MBPP's prompts are comments, its answers programs."""
        return self.dataset in ("humaneval", "humaneval_plus")


@dataclass(frozen=True, slots=True)
class CodeProblems:
    """The problems of one configuration by use.

    Example:
        CodeProblems(held_out=(CodeProblem(...),), validation=(), training=(), few_shot=())
    """

    held_out: tuple[CodeProblem, ...]
    validation: tuple[CodeProblem, ...]
    training: tuple[CodeProblem, ...]
    few_shot: tuple[CodeProblem, ...]


def load_code_problems(spec: CodeSpec) -> CodeProblems:
    """Held-out problems from `spec.path`; the others from `spec.train_path`, else from what `path` has besides.

    Problems of a `train_path` without a split of its own are all training problems. Raises DataError for
    files that are absent, broken or of another data set, for repeated ids, and for training problems that are
    held out as well.
    """
    path = data_path("code", spec.path)
    rows = _rows(path)
    if spec.reference_path is not None:
        rows = _patched(spec, rows)
    problems = _parsed(rows, path, None if spec.dataset == "auto" else spec.dataset)
    held_out = [problem for problem in problems if spec.held_out == "all" or problem.part == "test"]
    others = [problem for problem in problems if spec.held_out == "split" and problem.part != "test"]
    if spec.train_path is not None:
        train_path = data_path("code", spec.train_path, key="task.train_path")
        others = [_as_training(problem) for problem in _parsed(_rows(train_path), train_path, None)]
        others = [problem for problem in others if problem.part != "test"]
        leaked = {problem.task_id for problem in held_out} & {problem.task_id for problem in others}
        if leaked:
            raise DataError(
                f"{sorted(leaked)[0]!r} and {len(leaked) - 1} others are in {spec.train_path} for training and "
                f"in {spec.path} held out; set task.held_out=split, or take other problems for one of them"
            )
    if not held_out:
        raise DataError(f"{path} has no problem of the test part; set task.held_out=all")
    return CodeProblems(
        held_out=tuple(held_out),
        validation=tuple(problem for problem in others if problem.part == "validation"),
        training=tuple(problem for problem in others if problem.part == "train"),
        few_shot=tuple(problem for problem in others if problem.part == "few_shot"),
    )


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return list(read_objects(path, key="task.path", example=_EXAMPLE))


def _parsed(
    rows: Sequence[tuple[int, Mapping[str, Any]]], path: Path, dataset: Dataset | None
) -> list[CodeProblem]:
    found = dataset_of(rows[0][1], f"{path}:{rows[0][0]}")
    if dataset is not None and dataset != found:
        raise DataError(
            f"{path} is {found}, not task.dataset={dataset}; correct task.path, or set task.dataset to auto "
            f"({WHERE_TO_GET['code']})"
        )
    parse = _mbpp if found == "mbpp" else _evalplus if found.endswith("_plus") else _humaneval
    problems = [parse(row, found, f"{path}:{number}") for number, row in rows]
    line_of_id: dict[str, int] = {}
    for problem, (number, _) in zip(problems, rows, strict=True):
        earlier = line_of_id.setdefault(problem.task_id, number)
        if earlier != number:
            raise DataError(
                f"{path}:{number}: task_id {problem.task_id!r} is already that of line {earlier}; ids must differ"
            )
    return problems


def dataset_of(row: Mapping[str, Any], where: str) -> Dataset:
    """Data set of a row, by its fields. Raises DataError for an unknown one."""
    if "base_input" in row and "canonical_solution" in row:
        return "mbpp_plus" if str(row.get("task_id", "")).startswith("Mbpp/") else "humaneval_plus"
    if {"entry_point", "test", "canonical_solution"} <= row.keys():
        return "humaneval"
    if {"code", "test_list"} <= row.keys():
        return "mbpp"
    if "reference" in row and "base_input" in row:
        raise DataError(
            f"{where}: a HumanEval+ file of 2023-04, which has no prompts; set task.path to HumanEval.jsonl.gz, "
            "task.reference_path to this file and task.inputs_path to its inputs"
        )
    raise DataError(
        f"{where}: the fields {', '.join(sorted(row)) or '(none)'} are those of no code data set; "
        f"use {WHERE_TO_GET['code']}"
    )


def _humaneval(row: Mapping[str, Any], dataset: Dataset, where: str) -> CodeProblem:
    task_id, prompt, solution, entry_point, test = (
        required(row, name, str, where)
        for name in ("task_id", "prompt", "canonical_solution", "entry_point", "test")
    )
    part = row.get("part", "test")
    if part not in ("train", "validation", "test", "few_shot"):
        raise DataError(f"{where}: part {part!r} is none of train, validation, test, few_shot")
    return CodeProblem(task_id, dataset, part, prompt, solution, entry_point, test, description=prompt)


def _mbpp(row: Mapping[str, Any], dataset: Dataset, where: str) -> CodeProblem:
    """MBPP, and its sanitised version (`prompt` for `text`, `test_imports` for `test_setup_code`)."""
    number = required(row, "task_id", int, where)
    text = required(row, "text" if "text" in row else "prompt", str, where)
    tests = required(row, "test_list", list, where)
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports", ()))
    if not tests:
        raise DataError(f"{where}: task_id {number} has no tests; every answer would pass")
    return CodeProblem(
        task_id=f"Mbpp/{number}",
        dataset=dataset,
        part=mbpp_part(number, where),
        prompt=f'"""\n{text}\n{tests[0]}\n"""\n',
        solution=required(row, "code", str, where).replace("\r\n", "\n"),
        entry_point=None,
        test="\n".join([setup.replace("\r\n", "\n"), *tests]) if setup else "\n".join(tests),
        description="\n".join([text, "Your program must pass these tests:", *tests]),
    )


def _evalplus(row: Mapping[str, Any], dataset: Dataset, where: str) -> CodeProblem:
    task_id = required(row, "task_id", str, where)
    prompt = required(row, "prompt", str, where)
    entry_point = required(row, "entry_point", str, where)
    base, plus = required(row, "base_input", list, where), row.get("plus_input", [])
    part: Part = "test"
    if dataset == "mbpp_plus":
        prompt = prompt.rstrip("\n") + "\n"
        base, plus = typed_inputs(str(row.get("assertion", "")), entry_point, base, plus)
        number = task_id.rpartition("/")[2]
        part = mbpp_part(int(number) if number.isdigit() else -1, where)
    return CodeProblem(
        task_id=task_id,
        dataset=dataset,
        part=part,
        prompt=prompt,
        solution=required(row, "canonical_solution", str, where),
        entry_point=entry_point,
        test="",
        description=prompt,
        base_inputs=tuple(base),
        plus_inputs=tuple(plus),
        atol=float(row.get("atol", 0)),
        contract=str(row.get("contract", "")),
    )


def mbpp_part(number: int, where: str) -> Part:
    """The part of MBPP that task number `number` belongs to. Raises DataError outside 1-974."""
    for part, numbers in MBPP_PARTS:
        if number in numbers:
            return part
    raise DataError(f"{where}: task_id {number} is outside MBPP's 1-974; correct it")


def _patched(
    spec: CodeSpec, rows: Sequence[tuple[int, Mapping[str, Any]]]
) -> list[tuple[int, dict[str, Any]]]:
    """HumanEval's rows with the references and inputs of HumanEval+ as of 2023-04, in the release's format."""
    assert spec.reference_path is not None
    patches = _rows(data_path("code", spec.reference_path, key="task.reference_path"))
    if len(patches) != len(rows):
        raise DataError(
            f"{spec.reference_path} has {len(patches)} rows and {spec.path} {len(rows)}; they belong together "
            "by index, so give the files of one version"
        )
    inputs: dict[str, list[Any]] = {}
    if spec.inputs_path is not None:
        for number, row in _rows(data_path("code", spec.inputs_path, key="task.inputs_path")):
            where = f"{spec.inputs_path}:{number}"
            inputs[required(row, "task_id", str, where).replace("_", "/")] = required(
                row, "inputs", list, where
            )
    patched: list[tuple[int, dict[str, Any]]] = []
    for (number, row), (_, patch) in zip(rows, patches, strict=True):
        where = f"{spec.reference_path}:{number}"
        task_id = required(row, "task_id", str, f"{spec.path}:{number}")
        patched.append(
            (
                number,
                {
                    **row,
                    "canonical_solution": required(patch, "reference", str, where),
                    "base_input": required(patch, "base_input", list, where),
                    "plus_input": inputs.get(task_id, []),
                    "atol": patch.get("atol", 0),
                    "contract": patch.get("contract", ""),
                },
            )
        )
    return patched


def _as_training(problem: CodeProblem) -> CodeProblem:
    """Data sets without a split are training data as a whole where the user says so."""
    return problem if problem.dataset in ("mbpp", "mbpp_plus") else replace(problem, part="train")
