"""A reward that the user wrote: `score(items: list[dict]) -> list[float | dict | None]`.

    load_reward_source("my_reward.py:score")   on the driver: reads and parses the file, runs nothing
    compile_function(path, source)             on the workers: compiles the text under the file's name
    PythonReward(function, task)               calls it

Each item is {"prompt", "completion", "reference", "metadata", "messages"}. Each answer is a number in [0, 1],
None (unscored), or {"score": ..., "class": int or text, "components": {name: number}}. The code runs with the
service's rights: it is the user's own; untrusted programs belong into polyray.sandbox.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import linecache
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from polyray.config.reward import DiversitySpec
from polyray.errors import ConfigError, MissingFile, RewardError
from polyray.rewards.base import UNIT_RANGE, Judge, Score, ScoreItem, checked_score, unscored
from polyray.rewards.distances import TASK_DISTANCE, group_distances
from polyray.rewards.sibling_modules import check_imports, make_importable
from polyray.tasks.base import class_id

ISOLATION_BUDGET_S = 1.0
"""Time to retry halves of a failed call's items, to find those at fault, in seconds."""


def load_reward_source(path: str) -> str:
    """The text of FILE.py in "FILE.py:FUNCTION", checked to define FUNCTION.

    Raises MissingFile, or ConfigError for a syntax error, a missing function or an import that would fail; nothing is
    executed.
    """
    file, _, function = path.rpartition(":")
    if not Path(file).is_file():
        raise MissingFile(f"{file}: no such file; correct reward.path={path!r}")
    try:
        source = Path(file).read_text(encoding="utf-8")
        tree = ast.parse(source, file)
        names = _top_level_names(tree)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"reward.path={path!r} is not Python that can be read: {error}") from None
    if function not in names:
        near = difflib.get_close_matches(function, names, n=1)
        hint = f"did you mean {file}:{near[0]}?" if near else f"it defines {', '.join(names) or 'nothing'}"
        raise ConfigError(f"reward.path={path!r}: {file} has no top-level function {function!r}; {hint}")
    check_imports(path, file, tree)
    return source


def _top_level_names(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.extend(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.extend(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


UserFunction = Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True, slots=True)
class LoadedFunction:
    """A user's function, ready to be called.

    Example:
        LoadedFunction(score, name="my_reward.py:score", file="/home/me/my_reward.py", version="9f86d081884c")
    """

    call: UserFunction
    name: str
    file: str
    """File of its code, as tracebacks name it."""
    version: str


class PythonReward:
    """Call the user's function; its errors leave items unscored, with the reason."""

    inline = False

    def __init__(
        self,
        function: LoadedFunction,
        task: Judge,
        diversity: DiversitySpec = TASK_DISTANCE,
        *,
        score_range: tuple[float, float] = UNIT_RANGE,
        deterministic: bool = False,
        device: str = "cpu",
    ) -> None:
        """Range and determinism are what its author promises, `device` is where the encoder of distances runs."""
        self.score_range = score_range
        self.deterministic = deterministic
        self.name = f"python/{Path(function.name).name}"
        self.version = function.version
        self._who = f"reward function {function.name}"
        self._task = task
        self._diversity = diversity
        self._device = device
        self._file = function.file
        self._function = function.call

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item.

        If the call fails, its items are tried in ever smaller parts, so that one bad completion does not affect
        the others of the same batch.
        """
        return self._score_part(list(items), deadline=None) if items else []

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """[G][G] distances of one group; see `group_distances`."""
        return group_distances(self._task, self._diversity, items, scores, self._device)

    def _score_part(self, items: list[ScoreItem], deadline: float | None) -> list[Score]:
        try:
            answers = _as_list(self._function([_as_dict(item) for item in items]), len(items))
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            deadline = time.monotonic() + ISOLATION_BUDGET_S if deadline is None else deadline
            if len(items) == 1 or time.monotonic() > deadline:
                reason = unscored(self._explain(error))
                return [reason] * len(items)
            middle = len(items) // 2
            return self._score_part(items[:middle], deadline) + self._score_part(items[middle:], deadline)
        return [self._score_one(item, answer) for item, answer in zip(items, answers, strict=True)]

    def _score_one(self, item: ScoreItem, answer: object) -> Score:
        try:
            value, user_class, components = _parts(answer)
            if value is None:
                return unscored(f"{self._who} gave no score for this completion")
            class_number = _class_number(user_class)
            known = 0 if class_number is None else class_number
            score = checked_score(value, known, components, self._who, self.score_range)
            if score.score is not None and class_number is None:
                class_number = self._task.completion_class(item.as_prompt(), item.completion)
                score = checked_score(value, class_number, components, self._who, self.score_range)
        except Exception as error:  # answers and prompts are foreign; one of them must not unscore the batch
            return unscored(f"{self._who}: {error}")
        return score

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, RewardError):
            return f"{self._who} {error}"
        frames = traceback.extract_tb(error.__traceback__)
        start = next((at for at, frame in enumerate(frames) if frame.filename == self._file), len(frames))
        lines = "".join(traceback.format_list(frames[start:]))
        own = [frame for frame in frames if frame.filename == self._file]
        place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
        return f"{self._who} raised {type(error).__name__}: {error}{place}\n{lines}".rstrip()


def _parsed(file: str, source: str) -> ast.Module:
    try:
        return ast.parse(source, file)
    except SyntaxError as error:
        raise RewardError(f"{file} cannot be executed: {type(error).__name__}: {error}") from error


def compile_function(path: str, source: str) -> LoadedFunction:
    """The function of "FILE.py:FUNCTION" from the file's text. Raises RewardError if it cannot be executed."""
    file, _, function = path.rpartition(":")
    beside = make_importable(file, _parsed(file, source), RewardError)
    version = hashlib.sha256((source + beside).encode()).hexdigest()[:12]
    return LoadedFunction(_compile(file, source, function, version), path, file, version)


def _compile(file: str, source: str, function: str, version: str) -> UserFunction:
    module = ModuleType(f"polyray_reward_{version}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up by name
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise RewardError(f"{file} cannot be executed: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise RewardError(f"{file}: {function!r} is a {type(found).__name__}; define it as a function")
    return found


def _as_dict(item: ScoreItem) -> dict[str, Any]:
    return {
        "prompt": item.prompt,
        "completion": item.completion,
        "reference": item.reference,
        "metadata": dict(item.metadata),
        "messages": None if item.messages is None else [dict(message) for message in item.messages],
    }


def _as_list(answers: object, num_items: int) -> list[Any]:
    values = answers.tolist() if isinstance(answers, np.ndarray) else answers
    if not isinstance(values, list | tuple):
        raise RewardError(f"returned a {type(answers).__name__}; return a list with one entry per item")
    if len(values) != num_items:
        raise RewardError(f"returned {len(values)} entries for {num_items} items; return one per item")
    return list(values)


def _parts(answer: object) -> tuple[float | None, object, dict[str, float]]:
    """(score, class, components) of one answer. Raises RewardError for anything that is not one."""
    if not isinstance(answer, Mapping):
        return _number(answer, "a score"), None, {}
    unknown = sorted(str(key) for key in set(answer) - {"score", "class", "components"})
    if unknown or "score" not in answer:
        keys = sorted(map(str, answer))
        raise RewardError(
            f"returned a dict with the keys {keys}; it needs score and may have class, components"
        )
    components = answer.get("components") or {}
    if not isinstance(components, Mapping):
        raise RewardError(f"returned components as a {type(components).__name__}; return a dict of numbers")
    numbers = {str(name): _number(value, f"component {name!r}") for name, value in components.items()}
    return (
        _number(answer["score"], "a score"),
        answer.get("class"),
        {name: value for name, value in numbers.items() if value is not None},
    )


def _number(value: object, what: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real | np.bool_):
        raise RewardError(f"returned {what} as a {type(value).__name__} ({str(value)[:80]}); return a float")
    return float(value)


def _class_number(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        return class_id(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise RewardError(f"returned a class as a {type(value).__name__}; return an int or a text")
