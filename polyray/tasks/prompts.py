"""Prompts of a run: those of training, the fixed ones of validation, and whether each can be sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from polyray.config.periodic_eval import EvalPlan
from polyray.data.chat import encode_prompt
from polyray.errors import DataError
from polyray.tasks.base import Task
from polyray.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPEATS = 200
"""Known prompts in a row after which a task has no others: tasks with a file go through it in epochs."""
_GOOD: set[tuple[Path, int, int]] = set()
"""Prompts that this process has measured: model, limit and a hash of the texts."""


def check_task_prompts(
    task: Task, seed: int, limit: int, fixed: Sequence[Prompt], model_dir: Path, max_prompt_tokens: int
) -> None:
    """Checks the first `limit` training prompts and the `fixed` ones of validation. Raises DataError."""
    prompts = training_prompts(task, seed, limit)
    measured = list({prompt.prompt_id: prompt for prompt in (*prompts, *fixed)}.values())
    contents = frozenset((prompt.text, repr(prompt.messages)) for prompt in measured)
    key = (model_dir, max_prompt_tokens, hash(contents))
    if key not in _GOOD:  # trials of a sweep ask the same
        from polyray.models.tokenizer import usable_tokenizer

        check_prompts(measured, task, usable_tokenizer(model_dir), max_prompt_tokens)
        _GOOD.add(key)


def training_prompts(task: Task, seed: int, limit: int) -> Iterator[Prompt]:
    """The first `limit` training prompts, each once; fewer where the task has no more."""
    known: set[str] = set()
    repeats = 0
    for index in islice(count(), limit):
        prompt = task.training_prompt(index, seed)
        repeats = repeats + 1 if prompt.prompt_id in known else 0
        if repeats > REPEATS:
            return
        if not repeats:
            known.add(prompt.prompt_id)
            yield prompt


def validation_prompts(plan: EvalPlan, task: Task, seed: int) -> list[Prompt]:
    """The task's validation part; held-out prompts only where `plan` asks for them by name.

    Choices that are made on held-out prompts would make the evaluation on them too good.
    """
    if plan.prompts == "held_out":
        prompts = task.held_out_prompts()[-plan.num_prompts :]
    else:
        prompts = task.validation_prompts(plan.num_prompts)
    if not prompts and plan.from_training:
        prompts = [task.training_prompt(index, seed) for index in range(plan.num_prompts)]
    if not prompts:
        raise DataError(
            f"task {task.name} has no validation prompts, on which `evaluation` chooses the best version; held-out "
            "prompts are for polyray evaluate alone. Give the task more data (task.path, task.train_path, "
            "task.validation_share or task.num_validation), or remove `evaluation`"
        )
    return prompts


def check_prompts(
    prompts: Iterable[Prompt], task: Task, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> None:
    """Encodes every prompt. Raises DataError with count, first place and fix for those that cannot be sampled."""
    total = 0
    broken: list[tuple[Prompt, DataError]] = []
    long: list[tuple[Prompt, int]] = []
    for prompt in prompts:
        total += 1
        try:
            length = len(encode_prompt(tokenizer, prompt))
        except DataError as error:
            broken.append((prompt, error))
            continue
        if length > max_prompt_tokens:
            long.append((prompt, length))
    if broken:
        prompt, error = broken[0]
        raise DataError(
            f"{len(broken)} of {total} prompts cannot be encoded; the first is {_place(task, prompt)}: {error}. "
            "Correct or remove them, or use a model whose tokenizer knows their characters and has a chat template"
        )
    if long:
        prompt, length = long[0]
        longest = max(length for _, length in long)
        raise DataError(
            f"{len(long)} of {total} prompts have more than rollout.max_prompt_tokens={max_prompt_tokens} tokens; "
            f"the first is {_place(task, prompt)} with {length}. Set rollout.max_prompt_tokens={longest}, or shorten "
            "them"
        )


def _place(task: Task, prompt: Prompt) -> str:
    """File and line where the task knows them, else the prompt's id."""
    place_of = getattr(task, "place_of", None)
    place = None if place_of is None else place_of(prompt.prompt_id)
    return place or f"prompt {prompt.prompt_id!r}"
