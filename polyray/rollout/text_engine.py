"""Completions as streams: what the generation service asks of an engine.

`Engine` (engine.py) samples whole groups for training. Here every completion is a request of its own, with its own
sampling, for one of several adapters that are served side by side; its text comes as it is decoded, and a caller that
goes away frees the engine. Two implementations: vllm_text.py (vLLM in this process) and vllm_text_processes.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polyray.models.adapter import PolicyUpdate
from polyray.types import FinishReason


@dataclass(frozen=True, slots=True)
class TextSampling:
    """Sampling settings of a completion.

    Example:
        TextSampling(max_tokens=64, temperature=0.8, top_p=0.95, stop=("END",), logprobs=0)
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Stop strings: the text ends before the first of these, and does not hold it."""
    stop_token_ids: tuple[int, ...] = ()
    """Stop tokens: the completion ends with the first of these, or with the end of sequence."""
    logprobs: int | None = None
    """None: no log-probs; else those of the sampled tokens, and of so many likeliest ones beside each."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One completion to be.

    Example:
        TextRequest(prompt_token_ids=(1, 9, 4), sampling=TextSampling(max_tokens=8), seed=81, run="policy-v17")
    """

    prompt_token_ids: tuple[int, ...]
    sampling: TextSampling
    seed: int
    run: str
    """Run of the adapter that answers: the `run` of a loaded payload; the base is one of these."""
    stream: bool = False
    """False: one delta, at the end, which costs less."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text and tokens of a completion.

    Example:
        TextDelta(text=" word", token_ids=(412,), logprobs=(-.2,), alternatives=(), finish_reason=None)
    """

    text: str
    """May be empty: half a character, or what may become a stop string, is held back."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probs of `token_ids`, by the model at temperature 1 without cuts; empty unless asked for."""
    alternatives: tuple[tuple[tuple[int, float], ...], ...]
    """Per token, the likeliest (token id, log-prob), best first; empty unless asked for."""
    finish_reason: FinishReason | None
    """Set in the last one."""


def merged(deltas: Sequence[TextDelta]) -> TextDelta:
    """All that was added, as one."""
    return TextDelta(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        logprobs=tuple(value for delta in deltas for value in delta.logprobs),
        alternatives=tuple(row for delta in deltas for row in delta.alternatives),
        finish_reason=deltas[-1].finish_reason,
    )


class TextEngine(Protocol):
    """Engine for texts; belongs to the event loop that calls it. Log-probs are at temperature 1, for any sampling."""

    async def start(self) -> None:
        """Waits until the engine is built. Raises what its construction raised."""
        ...

    def generate(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """The completion as it comes. Closing the generator takes it out of the engine at once.

        Raises RolloutError where no adapter of that run is loaded, or the engine is dead.
        """
        ...

    async def load(self, payload: PolicyUpdate) -> np.ndarray:
        """Serves this adapter from now on under its run; the run's former one stays for what runs on it.

        Returns the engine's log-probs of `payload.probe.sequences`, laid out like `Probe.logprobs`. Raises
        WeightSyncError where the adapter is refused; nothing has changed then.
        """
        ...

    async def forget(self, run: str) -> None:
        """Drop a run that is no longer requested; its adapter goes once nothing runs on it."""
        ...

    @property
    def in_flight(self) -> int:
        """Completions that were asked for and have neither ended nor been given up."""
        ...

    @property
    def progress(self) -> int:
        """Grows as long as the engine does something: one that hangs can be told from one that is busy."""
        ...

    def held(self) -> dict[str, int]:
        """Adapters that the engine holds by their versions' names, and how many completions run on each."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """The error that killed the engine; None while it is well."""
        ...

    async def close(self) -> None:
        """Ends the engine, and removes what it keeps outside its process. Called once, last."""
        ...
