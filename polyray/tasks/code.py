"""Programming: HumanEval, HumanEval+, MBPP, MBPP+ and a small set of polyray's own.

    prompt       def add(x, y): \"\"\" ... \"\"\"      continued by the model, or a chat message that asks for one
    completion   the body, or a program in a fenced block
    verdict      of the tests, in the sandbox: this class only builds the Program

A completion's class is its canonical syntax tree, and a distance is the edit distance of two trees: the task
cannot know which programs pass, so the sandbox reward gives WRONG_CLASS to those that fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyray.config.verifiable_tasks import CodeSpec
from polyray.data.code_problems import CodeProblem, load_code_problems
from polyray.errors import DataError, RewardError
from polyray.sandbox import Program
from polyray.tasks.base import class_id, classes_of_each, epoch_position
from polyray.tasks.code_results import returns_values
from polyray.tasks.code_text import PUBLISHED_STOP, cut_at_stop, fenced_program, whole_program
from polyray.tasks.code_trees import Tree, canonical_tree, tree_distance
from polyray.tasks.differential import differential_test
from polyray.types import WRONG_CLASS, Prompt

MAX_PROGRAM_CHARS = 50_000
"""A longer program counts as wrong and is not run."""
MAX_TREE_NODES = 150
"""A pair with a larger syntax tree is compared by its sequence of nodes."""
INSTRUCTION = "Write a Python program. Answer with the whole program in one ```python block.\n\n{description}"


class CodeTask:
    """See the module docstring. Loads its files at once; runs nothing but references, when a test needs them."""

    name = "code"
    has_verifier = True

    def __init__(self, spec: CodeSpec) -> None:
        self.spec = spec
        self.problems = load_code_problems(spec)
        self._cache_dir = Path(spec.cache_dir)
        everything = (
            getattr(self.problems, use) for use in ("held_out", "validation", "training", "few_shot")
        )
        self._by_id = {problem.task_id: problem for part in everything for problem in part}

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """A training problem, in shuffled epochs. Raises DataError where there is none."""
        return self._prompt(self._training_problem(index, seed))

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """Held-out prompts in the order of the file."""
        return [self._prompt(problem) for problem in self.problems.held_out[:limit]]

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """MBPP's tasks 511-600; [] for data sets without such a part."""
        return [self._prompt(problem) for problem in self.problems.validation[:limit]]

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """A training problem and its solution, in the form of the configured mode."""
        return self._solved(self._training_problem(index, seed))

    @property
    def num_few_shot(self) -> int:
        """Number of problems that the data set keeps for prompts."""
        return len(self.problems.few_shot)

    def few_shot_examples(self, num_examples: int) -> list[tuple[Prompt, str]]:
        """The first examples of the part kept for prompts, MBPP's tasks 1-10. DataError where there are fewer."""
        if num_examples > len(self.problems.few_shot):
            raise DataError(
                f"{num_examples} examples for the prompt, but {self.spec.path} keeps "
                f"{len(self.problems.few_shot)} problems for that; lower their number"
            )
        return [self._solved(problem) for problem in self.problems.few_shot[:num_examples]]

    def reference(self, prompt: Prompt) -> str | None:
        """The data set's own solution: a correct continuation of its prompt."""
        return self.problem(prompt).solution

    def reward(self, prompt: Prompt, completion: str) -> float:
        """Raises RewardError: a verdict needs the sandbox."""
        raise RewardError(
            "task code does not run programs in this process; set reward.type: sandbox and start the job with "
            "--allow-code-execution"
        )

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The class of the program's canonical tree, tests aside; WRONG_CLASS where it cannot be parsed."""
        tree = self._tree(prompt, completion)
        return WRONG_CLASS if tree is None else class_id(tree.key())

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The class of each."""
        return classes_of_each(self, prompt, completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """Edit distance of the canonical trees over the larger size; 0 where either cannot be parsed."""
        first, second = self._tree(prompt, a), self._tree(prompt, b)
        if first is None or second is None:
            return 0.0
        return tree_distance(first, second, MAX_TREE_NODES)

    def problem(self, prompt: Prompt) -> CodeProblem:
        """The problem a prompt asks for. Raises DataError for a prompt of another data set."""
        return self._by_id[self.prompt_of(str(prompt.metadata.get("task_id", prompt.prompt_id))).prompt_id]

    def prompt_of(self, task_id: str) -> Prompt:
        """The prompt of a problem; MBPP's numbers need no prefix. Raises DataError for an unknown one."""
        known = task_id if task_id in self._by_id else f"Mbpp/{task_id}"
        if known not in self._by_id:
            raise DataError(
                f"task_id {task_id!r} is none of the {len(self._by_id)} problems of {self.spec.path}, such as "
                f"{next(iter(self._by_id))!r}; give the problems that the samples were made for"
            )
        return self._prompt(self._by_id[known])

    def cut(self, prompt: Prompt, completion: str) -> str:
        """The completion up to a stop word, as samples files for other harnesses hold it.

        In program mode a fenced block replaces the whole completion.
        """
        problem = self.problem(prompt)
        if self.spec.mode == "program":
            block = fenced_program(completion, problem.entry_point)
            if block is not None:
                return block
        stop = PUBLISHED_STOP[problem.dataset] if self.spec.stop is None else self.spec.stop
        return cut_at_stop(completion, stop)

    def judged_text(self, prompt: Prompt, completion: str) -> str:
        """The part of a continuation that was judged; an answer with a program in it stays whole."""
        return completion if self.spec.mode == "program" else self.cut(prompt, completion)

    def source(self, prompt: Prompt, completion: str) -> str:
        """The program of a completion, without its tests."""
        problem, code = self.problem(prompt), self.cut(prompt, completion)
        if self.spec.mode == "program":
            return whole_program(problem, code)
        return problem.prompt + code if problem.continues_prompt else code

    def program(self, prompt: Prompt, completion: str, parts: Sequence[str] | None = None) -> Program:
        """Program for the sandbox. `parts`: of the plus data sets, ("base",), ("plus",) or, by default, both.

        An over-long program becomes one that fails with a message saying so. Raises DataError where a
        reference fails, SandboxError where it cannot be run.
        """
        return self._judged(self.problem(prompt), self.source(prompt, completion), parts)

    def _judged(self, problem: CodeProblem, source: str, parts: Sequence[str] | None) -> Program:
        if len(source) > MAX_PROGRAM_CHARS:
            reason = (
                f"the program has {len(source)} characters, more than the {MAX_PROGRAM_CHARS} that are run"
            )
            return Program(problem.task_id, f"raise ValueError({reason!r})")
        if problem.is_differential:
            test = differential_test(problem, self._cache_dir, parts or ("base", "plus"))
            return Program(
                problem.task_id, source, test, guarded=False
            )  # the test rebuilds every output itself
        solved = problem.prompt + problem.solution if problem.continues_prompt else problem.solution
        guarded = returns_values(solved) and returns_values(problem.test)
        return Program(problem.task_id, source, problem.test, problem.entry_point, guarded)

    def program_of_solution(self, prompt: Prompt, solution: str) -> Program:
        """Program for the sandbox from a whole program, as EvalPlus's samples hold it: nothing is cut off."""
        problem = self.problem(prompt)
        return self._judged(problem, whole_program(problem, solution), None)

    def class_of_solution(self, prompt: Prompt, solution: str) -> int:
        """The class of a whole program: that of a completion which makes the same one."""
        tree = canonical_tree(whole_program(self.problem(prompt), solution))
        return WRONG_CLASS if tree is None else class_id(tree.key())

    def programs(self, prompt: Prompt, completion: str) -> dict[str, Program]:
        """One program per verdict that EvalPlus reports: base and plus, or base alone."""
        if not self.problem(prompt).is_differential:
            return {"base": self.program(prompt, completion)}
        return {part: self.program(prompt, completion, (part,)) for part in ("base", "plus")}

    def _training_problem(self, index: int, seed: int) -> CodeProblem:
        training = self.problems.training
        if not training:
            raise DataError(
                f"{self.spec.path} has no training part; set task.train_path to problems to train on, "
                "e.g. mbpp.jsonl"
            )
        return training[epoch_position("code", index, len(training), seed)]

    def _prompt(self, problem: CodeProblem) -> Prompt:
        text, messages = problem.prompt, None
        if self.spec.mode == "program":
            text = INSTRUCTION.format(description=problem.description)
            messages = ({"role": "user", "content": text},)
        return Prompt(
            prompt_id=problem.task_id,
            text=text,
            messages=messages,
            cluster_id=problem.task_id,
            metadata={"task_id": problem.task_id},
        )

    def _solved(self, problem: CodeProblem) -> tuple[Prompt, str]:
        if self.spec.mode == "completion":
            return self._prompt(problem), problem.solution
        program = problem.prompt + problem.solution if problem.continues_prompt else problem.solution
        return self._prompt(problem), f"```python\n{program.strip()}\n```"

    def _tree(self, prompt: Prompt, completion: str) -> Tree | None:
        source = self.source(prompt, completion)
        return None if len(source) > MAX_PROGRAM_CHARS else canonical_tree(source)
