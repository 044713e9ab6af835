"""Measures a run's prompts before anything starts: each must be encodable and fit into the engines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from polyray.config.run import TrainConfig
from polyray.config.task import HiddenTrapGridSpec
from polyray.data.chat import check_can_end, encode_prompt
from polyray.errors import DataError
from polyray.models.loading import load_tokenizer
from polyray.periodic_eval.validation import validation_prompts
from polyray.tasks.base import Task
from polyray.types import Prompt

ALWAYS_MEASURED = 20_000
"""Training prompts that are measured however short the run is; about 100 microseconds each."""
MARGIN = 2
"""Times the groups of a run that it may ask for: some are dropped or sampled again."""
OF_GENERATED = 64
"""Training prompts of a task that generates all of them alike."""
REPEATS = 200
"""Known prompts in a row after which a task has shown all it has: tasks with a file go through it in epochs."""
_GOOD: set[tuple[Path, int, int]] = set()
"""Prompts that this process has measured: model, limit and a hash of the texts."""


def check_run_prompts(config: TrainConfig, task: Task, model_dir: Path) -> None:
    """Raises DataError where a prompt of training or validation cannot be encoded, or is too long."""
    groups = config.learner.steps * config.rollout.prompts_per_step
    generated = isinstance(config.task, HiddenTrapGridSpec)
    limit = OF_GENERATED if generated else max(ALWAYS_MEASURED, MARGIN * groups)
    prompts = training_prompts(task, config.seed, limit)
    rounds = config.rounds
    fixed = [] if rounds is None else validation_prompts(rounds, task, config.seed)
    measured = list({prompt.prompt_id: prompt for prompt in (*prompts, *fixed)}.values())
    room = config.rollout.max_prompt_tokens
    contents = frozenset((prompt.text, repr(prompt.messages)) for prompt in measured)
    if (key := (model_dir, room, hash(contents))) not in _GOOD:  # trials of a sweep ask the same
        check_prompts(measured, task, usable_tokenizer(model_dir), room)
        _GOOD.add(key)


def usable_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a base; raises ConfigError where no completion of the base can end."""
    tokenizer = load_tokenizer(model_dir)
    known = json.loads((model_dir / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    check_can_end(tokenizer, known)
    return tokenizer


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
