"""Random picks of /v1/candidates: uniform over candidates, independent between requests, reproducible by seed."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polyray.config.generation import GenerationServeConfig
from polyray.config.loader import build_config
from polyray.data.selections.records import CandidatesRecord, StoredRecord
from polyray.rewards.base import GroupScores
from polyray.seeds import sample_seed
from polyray.serving.generation.candidates import CandidateMaker
from polyray.serving.generation.candidates_wire import CandidatesRequest
from polyray.serving.generation.openai_answers import Sampled
from polyray.serving.generation.request_parser import ParsedRequest
from polyray.types import Sampling, TextRequest

REQUESTS = 400
K = 4
CHI_SQUARE_LIMIT = 16.27
"""Chi-square limit for 3 degrees of freedom at p = 0.001; the draws are seeded, so the value never changes."""


class Scoring:
    """A reward with given values, or none."""

    distances_need_scores = False
    source = "token"

    def __init__(self, rewards: list[float] | None) -> None:
        self._rewards = rewards

    @property
    def has_reward(self) -> bool:
        return self._rewards is not None

    async def scores(self, prompt: Any, texts: list[str]) -> GroupScores:
        assert self._rewards is not None
        size = len(texts)
        return GroupScores(np.array(self._rewards), np.arange(size), None, {}, (None,) * size)

    async def distances(self, texts: list[str], scores: Any) -> np.ndarray:
        return 1.0 - np.eye(len(texts))


async def pick(seed: int, selector: str, rewards: list[float] | None, prompt: str = "p") -> int:
    """selected_index of one request whose completions are A, B, C and D, equally likely and equally long."""
    return (await made(seed, selector, Scoring(rewards), prompt)).answer["selected_index"]


async def made(seed: int, selector: str, scoring: Any, prompt: str = "p") -> CandidatesRecord:
    """The record that such a request leaves in the store."""
    texts = [Sampled(text, [1], [-1.0], [], "stop") for text in "ABCD"]

    async def complete(requests: Any) -> list[Sampled]:
        return texts

    sampler: Any = SimpleNamespace(reserved=lambda count: nullcontext(), complete=complete)
    records: list[CandidatesRecord] = []
    store: Any = SimpleNamespace(add_candidates=records.append)
    config = build_config(GenerationServeConfig, {"name": "picks", "selector": "first"})
    maker = CandidateMaker(config, SimpleNamespace(), sampler, scoring, store)  # type: ignore[arg-type]
    policy: Any = SimpleNamespace(model="base", version=None, policy=SimpleNamespace(sha256="b" * 64))
    sampling = Sampling(8)
    requests = tuple(
        TextRequest((1,), sampling, sample_seed(seed, "prompt 0", at), "base") for at in range(K)
    )
    scored = True if selector == "first" else None
    request = CandidatesRequest(prompt=prompt, k=K, selector=selector, seed=seed, score=scored)  # type: ignore[arg-type]
    await maker.answer(request, ParsedRequest(policy, requests, 1), "alice")
    return records[0]


def chi_square(picks: list[int]) -> float:
    """Against the uniform distribution over the candidates."""
    counts = np.bincount(picks, minlength=K)
    expected = len(picks) / K
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("selector", "rewards"),
    [
        ("random", None),
        ("reward", [1.0, 1.0, 1.0, 1.0]),
        ("logprob", None),
        ("length", None),
        ("noisy_user", [0.5, 0.5, 0.5, 0.5]),
    ],
)
async def test_pick_without_a_better_candidate_is_uniform_and_reproducible_by_seed(
    selector: str, rewards: list[float] | None
) -> None:
    picks = [await pick(seed, selector, rewards) for seed in range(REQUESTS)]
    assert chi_square(picks) < CHI_SQUARE_LIMIT
    again = [await pick(seed, selector, rewards) for seed in range(20)]
    assert again == picks[:20]


async def test_pick_prefers_better_candidates_as_its_selector_says() -> None:
    picks = [await pick(seed, "reward", [0.0, 1.0, 0.2, 1.0]) for seed in range(REQUESTS)]
    assert set(picks) == {1, 3}
    assert abs(picks.count(1) / REQUESTS - 0.5) < 0.1  # 4 standard deviations
    picks = [await pick(seed, "noisy_user", [0.0, 1.0, 0.0, 0.0]) for seed in range(REQUESTS)]
    expected = np.exp(2.0) / (np.exp(2.0) + 3)  # Bradley-Terry at scale 0.5
    assert abs(picks.count(1) / REQUESTS - expected) < 0.1
    assert set(picks) == {0, 1, 2, 3}


async def test_scores_are_added_and_never_taken_away() -> None:
    nothing = math.nan
    stored = StoredRecord(await made(0, "first", Scoring([0.9, 0.4, nothing, 0.1])), None)
    store = SimpleNamespace(replace_answer=lambda id, answer: None)
    found = []
    for rewards in ([nothing] * 4, [0.2, 0.2, 0.7, 0.2]):
        config = build_config(GenerationServeConfig, {"name": "picks"})
        maker = CandidateMaker(config, None, None, Scoring(rewards), store)  # type: ignore[arg-type]
        answer = await maker.score(stored)
        found.append([candidate["score"] for candidate in answer["candidates"]])
    assert found == [[0.9, 0.4, None, 0.1], [0.9, 0.4, 0.7, 0.1]]


async def test_pick_of_one_seed_is_independent_between_prompts() -> None:
    picks = [await pick(0, "random", None, f"prompt {number}") for number in range(REQUESTS)]
    assert chi_square(picks) < CHI_SQUARE_LIMIT
