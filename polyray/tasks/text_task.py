"""Base class of tasks without a verifier: rows with human texts, three parts, heuristic quality, classes.

A subclass reads its data into rows and defines its expectations of a text; everything else is here. `metadata`
of a prompt holds its `source` (the post, the story, the writing prompt, without the instruction around it):
relevance and copying are judged against it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from polyray.config.text_tasks import TextTaskSpec
from polyray.data.splits import Part, linked_clusters, seeded_rank, split_clusters
from polyray.data.words import canonical_text, first_words
from polyray.errors import DataError, boundary
from polyray.tasks.base import epoch_position
from polyray.tasks.text_classes import TextClasses, text_class
from polyray.tasks.text_quality import QualityProfile, text_quality
from polyray.types import WRONG_CLASS, Prompt

MIN_CLUSTERS = 3


@dataclass(frozen=True, slots=True)
class RatedText:
    """A human text.

    Example:
        RatedText("Yes, where there are any.", engagement=26.0)
    """

    text: str
    engagement: float | None = None
    """Engagement on the data set's own scale: up-votes, likes, log-odds of a click; None if not measured."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a subclass: something to write about.

    Example:
        SourceRow(source_id="q1", source="Should answers cite sources?", texts=(RatedText("Yes."),),
                  keys=frozenset({"thread q1"}))
    """

    source_id: str
    source: str
    texts: tuple[RatedText, ...]
    """Texts in the order of the file."""
    keys: frozenset[str] = frozenset()
    """Keys that no other part of the data may share, beside the source itself."""
    form: str = ""
    """Form of the text, for a task with several forms (`metadata["form"]` of the prompt)."""
    attribution: Mapping[str, str] = field(default_factory=dict)
    """Address and licence of the source: they go into the prompt's metadata and stay with the text."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A prompt with its human texts.

    Example:
        TextRow(prompt=Prompt("social_replies-q1", "Write a reply ...", reference="Yes."),
                texts=(RatedText("Yes.", 26.0),))
    """

    prompt: Prompt
    texts: tuple[RatedText, ...]
    """Most engagement first; equal ones in the order of the file."""


class TextTask(ABC):
    """Prompts, demonstrations and a heuristic quality; see the module docstring."""

    name: str
    has_verifier = False
    profiles: Mapping[str, QualityProfile]
    """Profiles by form; "" if a task has one only."""
    instructions: Mapping[str, str]
    """Instruction to the model, by form; {source} is replaced."""

    def __init__(self, spec: TextTaskSpec, device: str = "cpu") -> None:
        """`device` is that of the encoder, where classes need one."""
        self.spec = spec
        self.left_out: dict[str, int] = {}
        """Reason -> how many human texts or prompts of the files are not used."""
        self._classes = TextClasses(spec, device)
        self._parts = self._split()
        self._validation = {row.prompt.prompt_id: row for row in self._parts["validation"]}
        self._demonstrations = [
            (row.prompt, item.text)
            for row in self._parts["train"]
            for item in row.texts[: spec.max_demonstrations]
        ]

    @abstractmethod
    def read(self, path: str, key: str) -> list[SourceRow]:
        """The rows of a file, `key` being the configuration's name for it. For subclasses; counts `left_out`."""

    def rows(self, part: Part) -> Sequence[TextRow]:
        """Prompts of one part with all their human texts and the engagement these had."""
        return self._parts[part]

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """Prompt number `index`: epoch `index // n`, shuffled by seed and epoch."""
        rows = self._parts["train"]
        return rows[epoch_position(self.name, index, len(rows), seed)].prompt

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """The test part, shuffled once; a `test_path` keeps its order."""
        return [row.prompt for row in self._parts["test"][:limit]]

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """Prompts for thresholds and early stopping: neither trained nor tested on."""
        return [row.prompt for row in self._parts["validation"][:limit]]

    def human_texts(self, prompt: Prompt) -> tuple[str, ...]:
        """Human texts for a validation prompt, most engagement first; () for any other prompt."""
        row = self._validation.get(prompt.prompt_id)
        return () if row is None else tuple(item.text for item in row.texts)

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """A human text for a training prompt. Raises DataError if the training part has none."""
        if not self._demonstrations:
            raise DataError(
                f"{self.spec.path}: no training prompt has a human text to learn from (left out: "
                f"{self.left_out or 'none'}); add some, or loosen the limits of the task"
            )
        return self._demonstrations[epoch_position(self.name, index, len(self._demonstrations), seed)]

    def reference(self, prompt: Prompt) -> str | None:
        """The human text with the most engagement, where there is one."""
        return prompt.reference

    def reward(self, prompt: Prompt, completion: str) -> float:
        """Heuristic quality (text_quality.py): plausible and clean, not necessarily good."""
        form = str(prompt.metadata.get("form", ""))
        profile = self.profiles.get(form) or next(iter(self.profiles.values()))
        return _quality(profile, _source(prompt), completion)

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The words alone: without its group a text can only equal itself. WRONG_CLASS for quality 0."""
        return WRONG_CLASS if self.reward(prompt, completion) <= 0 else text_class(completion)

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """Greedy against the first member of each class, in the order given; WRONG_CLASS for quality 0."""
        return self._classes.partition(completions, [self.reward(prompt, text) <= 0 for text in completions])

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """Distance by words or by meaning, as the classes; 0 if either has quality 0: garbage earns no diversity."""
        if self.reward(prompt, a) <= 0 or self.reward(prompt, b) <= 0:
            return 0.0
        return self._classes.distance(a, b)

    def _split(self) -> dict[Part, list[TextRow]]:
        spec = self.spec
        sources = self._read(spec.path, "task.path")
        rows = self._text_rows(sources)
        parts: dict[Part, list[TextRow]] = {"train": [], "validation": [], "test": []}
        if spec.test_path is not None:
            test_sources = self._read(spec.test_path, "task.test_path")
            _check_apart(sources, test_sources, spec)
            parts["test"] = self._text_rows(test_sources)
        num_clusters = len({row.prompt.cluster_id for row in rows})
        if num_clusters < MIN_CLUSTERS:
            raise DataError(
                f"{spec.path}: {num_clusters} independent prompts cannot be split into train, validation and test; "
                f"give at least {MIN_CLUSTERS}"
            )
        with boundary(DataError, spec.path):
            part_of = split_clusters(
                (row.prompt.cluster_id for row in rows),
                test_share=0.0 if spec.test_path is not None else spec.test_share,
                validation_share=spec.validation_share,
                seed=spec.split_seed,
            )
        for row in sorted(rows, key=lambda row: seeded_rank(spec.split_seed, row.prompt.prompt_id)):
            parts[part_of[row.prompt.cluster_id]].append(row)
        return parts

    def _read(self, path: str, key: str) -> list[SourceRow]:
        sources = self.read(path, key)
        if not sources:
            raise DataError(
                f"{path}: no usable prompt (left out: {self.left_out or 'none'}); set {key} to another"
            )
        return sources

    def _text_rows(self, sources: Sequence[SourceRow]) -> list[TextRow]:
        clusters = linked_clusters([_all_keys(row) for row in sources])
        return [
            self._text_row(row, sources[first].source_id)
            for row, first in zip(sources, clusters, strict=True)
        ]

    def _text_row(self, row: SourceRow, cluster_id: str) -> TextRow:
        limit = self.spec.max_demonstration_words
        kept = [item for item in row.texts if limit is None or len(item.text.split()) <= limit]
        self.count_left_out(f"human texts above {limit} words", len(row.texts) - len(kept))
        kept.sort(key=lambda item: 0.0 if item.engagement is None else -item.engagement)
        source = first_words(row.source, self.spec.max_source_words)
        metadata = {"source": source, **row.attribution}
        if row.form:
            metadata["form"] = row.form
        text = (self.spec.instruction or self.instructions[row.form]).replace("{source}", source)
        prompt = Prompt(
            prompt_id=f"{self.name}-{row.source_id}",
            text=text,
            reference=kept[0].text if kept else None,
            messages=({"role": "user", "content": text},) if self.spec.mode == "chat" else None,
            cluster_id=cluster_id,
            metadata=metadata,
        )
        return TextRow(prompt, tuple(kept))

    def count_left_out(self, reason: str, number: int) -> None:
        """Remembers that `number` texts or prompts are not used."""
        if number:
            self.left_out[reason] = self.left_out.get(reason, 0) + number


@lru_cache(maxsize=16384)
def _quality(profile: QualityProfile, source: str, text: str) -> float:
    return text_quality(profile, source, text)


def _source(prompt: Prompt) -> str:
    """Prompts that did not come from this task, over HTTP, may have no metadata."""
    source = prompt.metadata.get("source")
    return source if isinstance(source, str) else prompt.text


def _all_keys(row: SourceRow) -> frozenset[str]:
    return row.keys | {canonical_text(row.source) or row.source}


def _check_apart(rows: Sequence[SourceRow], test: Sequence[SourceRow], spec: TextTaskSpec) -> None:
    owner_of = {key: row.source_id for row in rows for key in _all_keys(row)}
    for row in test:
        shared = sorted(key for key in _all_keys(row) if key in owner_of)
        if shared:
            raise DataError(
                f"{spec.test_path}: prompt {row.source_id} shares {shared[0][:80]!r} with {owner_of[shared[0]]} of "
                f"{spec.path}; held-out prompts must not be trained on: remove it from one of the files"
            )
