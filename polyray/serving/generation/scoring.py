"""Judgement of candidates: the configured reward, and distances of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from polyray.config.reward import DiversitySpec
from polyray.orchestrator.reward_client import RewardClient
from polyray.rewards.base import GroupScores
from polyray.rewards.distances import text_distances
from polyray.types import Prompt

TEXT_SOURCES = ("embedding", "ngram")


class CandidateScoring:
    """Scores and distances of one prompt's texts. Belongs to one event loop."""

    def __init__(self, client: RewardClient | None, diversity: DiversitySpec) -> None:
        self._client = client
        self._diversity = diversity

    @property
    def has_reward(self) -> bool:
        """Whether anything can be scored."""
        return self._client is not None

    @property
    def source(self) -> str:
        """Source of distances."""
        return self._diversity.source

    @property
    def distances_need_scores(self) -> bool:
        """Whether only the reward knows how far apart two completions are."""
        return self._diversity.source not in TEXT_SOURCES

    async def scores(self, prompt: Prompt, texts: Sequence[str]) -> GroupScores:
        """The scores of `texts`; unscored, with the reason, where there are none."""
        if self._client is None:
            return GroupScores.unscored(len(texts), "this service has no reward; set `reward`")
        return await self._client.score_group(prompt, texts, self.distances_need_scores)

    async def distances(self, texts: Sequence[str], scores: GroupScores | None) -> np.ndarray:
        """[G, G] in [0, 1], symmetric, zero diagonal."""
        if self.distances_need_scores:
            assert scores is not None
            if scores.distances_GG is not None:
                return scores.distances_GG
            return 1.0 - np.equal.outer(texts, texts).astype(np.float64)  # unscored: equal or not
        spec = self._diversity
        return await asyncio.to_thread(text_distances, spec.source, texts, spec.encoder, spec.n)
