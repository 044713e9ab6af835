"""Scores on disk: one line per text in scores/NAME-VERSION.jsonl, so that a killed run scores nothing twice.

The version of a scorer is part of the file's name: another model never reads the scores of this one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from polyray.errors import RewardError, boundary
from polyray.runs.jsonl import JsonlWriter, read_jsonl
from polyray.shelf.preferences.reward_evaluation.scorers import CompletionScorer

BATCH = 256
Progress = Callable[[str, int, int], None]
"""(scorer, texts done, texts in all)."""


class ScoreStore:
    """The scores of one scorer; `scores` computes what is missing and appends it batch by batch."""

    def __init__(self, directory: Path, scorer: CompletionScorer, progress: Progress) -> None:
        self._scorer = scorer
        self._progress = progress
        safe = re.sub(r"[^\w.-]+", "_", scorer.name)
        self.path = directory / f"{safe}-{scorer.version[:12]}.jsonl"
        self._known: dict[str, float] = {
            line["id"]: np.nan if line["score"] is None else line["score"] for line in read_jsonl(self.path)
        }

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] float64, NaN where the scorer has no score. Raises RewardError where it fails or answers nonsense."""
        keys = [text_id(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
        missing = list({key: at for at, key in enumerate(keys) if key not in self._known}.values())
        with JsonlWriter(self.path) as writer:
            for start in range(0, len(missing), BATCH):
                chosen = missing[start : start + BATCH]
                values = self._compute([prompts[at] for at in chosen], [completions[at] for at in chosen])
                for at, value in zip(chosen, values, strict=True):
                    self._known[keys[at]] = float(value)
                    writer.write({"id": keys[at], "score": float(value)})
                self._progress(self._scorer.name, min(start + BATCH, len(missing)), len(missing))
        return np.array([self._known[key] for key in keys], dtype=np.float64)

    def _compute(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        name = self._scorer.name
        with boundary(RewardError, f"scorer {name!r} failed on a batch of {len(prompts)} texts"):
            values = np.asarray(self._scorer.scores(prompts, completions), dtype=np.float64)
        if values.shape != (len(prompts),) or np.isinf(values).any():
            raise RewardError(
                f"scorer {name!r} answered {len(prompts)} texts with an array of shape {values.shape} and "
                f"{int(np.isinf(values).sum())} infinite values; one finite number (or NaN) per text is needed"
            )
        return values


def text_id(prompt: str, completion: str) -> str:
    """sha256 (32 hex digits) of prompt and completion."""
    return hashlib.sha256(json.dumps([prompt, completion]).encode()).hexdigest()[:32]
