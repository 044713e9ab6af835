"""An engagement model as a reward: the score is the probability of beating a text that people wrote.

    components   raw          calibrated log-odds; differences are log-odds of one completion beating another
                 probability  the score again, under its own name
                 truncated    1 where the completion reaches the encoder's limit: its end was not read

**Empty completions** (nothing but white space) score 0 with WRONG_CLASS and no raw score: people cannot react to
them, and as an error they would leave their group, so a policy would not learn that an empty answer is the worst.
**Long completions** are scored by what the encoder reads, their beginning, and `truncated` says so: an answer of 300
words is not worthless. If endless text must not pay, limit rollout.max_tokens or gate with a composite reward.

The completion is rated as an answer to the text that people saw: metadata["source"] if the task gives it (the post
without the instruction around it), else the last user message, else the prompt's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polyray.config.reward import DiversitySpec
from polyray.rewards.base import Judge, Score, ScoreItem, unscored
from polyray.rewards.distances import TASK_DISTANCE
from polyray.rewards.task_reward import TaskReward
from polyray.shelf.preferences.reward_model.model import EngagementModel
from polyray.types import WRONG_CLASS

_EMPTY = Score(0.0, WRONG_CLASS, {"probability": 0.0})


class EngagementReward(TaskReward):
    """Scores by the model; classes and distances are the task's and the configuration's."""

    def __init__(
        self,
        model: EngagementModel,
        task: Judge,
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
    ) -> None:
        super().__init__(task, f"engagement/{model.card.name}", model.version, diversity, device)
        self.model = model

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; one that cannot be scored says why."""
        found: dict[int, Score] = {}
        prompts: dict[int, str] = {}
        for at, item in enumerate(items):
            if not item.completion.strip():
                found[at] = _EMPTY
                continue
            try:
                prompts[at] = shown_prompt(item)
            except ValueError as error:
                found[at] = unscored(f"{self.name}: {error}")
        rated = list(prompts)
        completions = [items[at].completion for at in rated]
        raw_N = self.model.raw([prompts[at] for at in rated], completions)
        is_cut = self._truncated(completions)
        for at, raw, value, cut in zip(rated, raw_N, self.model.as_scores(raw_N), is_cut, strict=True):
            parts = {"raw": float(raw), "probability": float(value), "truncated": float(cut)}
            found[at] = self._judged(items[at], float(value), parts)
        return [found[at] for at in range(len(items))]

    def _truncated(self, completions: Sequence[str]) -> np.ndarray:
        """[N] whether a completion reaches the encoder's limit; only long texts are counted (a token is a byte at
        least)."""
        limit = self.model.embedder.max_tokens
        reaches = np.zeros(len(completions), dtype=bool)
        long = [
            at for at, text in enumerate(completions) if len(text.encode("utf-8", "replace")) >= limit - 2
        ]
        if long:
            reaches[long] = [
                count >= limit for count in self.model.embedder.num_tokens([completions[at] for at in long])
            ]
        return reaches


def shown_prompt(item: ScoreItem) -> str:
    """Text that people saw before they reacted. Raises ValueError for a source that is no text."""
    source = item.metadata.get("source")
    if source is not None and not isinstance(source, str):
        raise ValueError(f'metadata["source"] is {repr(source)[:40]}, not a text; correct it or leave it out')
    if source is not None:
        return source
    users = [message["content"] for message in item.messages or () if message["role"] == "user"]
    return users[-1] if users else item.prompt


def build_engagement_reward(
    path: str, task: Judge, diversity: DiversitySpec = TASK_DISTANCE, device: str = "cpu"
) -> EngagementReward:
    """Loads the model, its encoder onto `device`. Raises ConfigError and DataError as EngagementModel.load does."""
    return EngagementReward(EngagementModel.load(Path(path), device), task, diversity, device)
