"""Equal lengths on both sides of a comparison, for any policy: planned, forced, checked."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.made_groups import drawn_lengths
from polyray.errors import PolyrayError
from polyray.tasks.hidden_trap_grid import parse_prompt, shortest_moves
from polyray.types import Prompt


class ForcedLengths:
    """vLLM's engine with forced lengths.

    Its requests run on beyond an end of sequence and stop at the length that was set for their seed: `lengths`,
    each used once.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.lengths: dict[int, int] = {}

    @property
    def output_processor(self) -> _FirstToSee:
        """The output processor, which sees a request first."""
        return _FirstToSee(self._engine.output_processor, self.lengths)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class _FirstToSee:
    def __init__(self, processor: Any, lengths: dict[int, int]) -> None:
        self._processor = processor
        self._lengths = lengths

    def add_request(self, request: Any, *rest: Any) -> Any:
        """Like vLLM's own method, with the planned length of the request."""
        params = request.sampling_params
        length = self._lengths.pop(params.seed, None)
        if length is not None:  # vLLM has read ignore_eos by now, and set the ends of a sequence
            params._eos_token_id, params.stop_token_ids, params.max_tokens = None, [], length
        return self._processor.add_request(request, *rest)


class ForcedEnds:
    """A logits processor of transformers: row b ends as its token number `lengths[b]`, and not before."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._prompt_tokens = 0
        self.lengths: Sequence[int] = ()

    def begin(self, lengths: Sequence[int]) -> None:
        """The next batch has these lengths; its prompts are padded to one length."""
        self.lengths, self._prompt_tokens = lengths, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[B, V] scores of the next tokens."""
        if self._prompt_tokens == 0:
            self._prompt_tokens = input_ids.shape[1]
        token = input_ids.shape[1] - self._prompt_tokens + 1
        scores[:, self._end] = -torch.inf
        ending_B = torch.tensor(self.lengths, device=scores.device) == token
        scores[ending_B] = -torch.inf
        scores[ending_B, self._end] = 0.0
        return scores


def planned_lengths(prompts: Sequence[Prompt], options: Namespace) -> list[list[int]]:
    """Lengths of the completions of each step.

    They are those of the embedded model's own answers (a shortest path and the end of sequence), or drawn, one of
    each step the longest.
    """
    draw, rows = np.random.default_rng(0), options.groups * options.group_size
    planned = []
    for first in range(0, len(prompts), options.groups):
        lengths = drawn_lengths(draw, rows, options.longest, options.mean_share)
        draw.shuffle(lengths)
        if options.model == "embedded":
            moves = [
                "".join(shortest_moves(*parse_prompt(p.text)))
                for p in prompts[first : first + options.groups]
            ]
            lengths = [len(of) + 1 for of in moves for _ in range(options.group_size)]
        planned.append(lengths)
    return planned


def require_lengths(side: str, completions: Sequence[Any], lengths: Sequence[int]) -> None:
    """Raises PolyrayError where a side did not sample what both were to sample."""
    found = [len(tokens) for tokens in completions]
    if found != list(lengths):
        raise PolyrayError(
            f"{side} sampled completions of {found[:8]} tokens ... where {list(lengths)[:8]} ... were planned"
        )
