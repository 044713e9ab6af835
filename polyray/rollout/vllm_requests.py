"""Requests in vLLM's terms, and its answers in ours.

Text is decoded by vLLM, token by token, only where it is wanted or looked at on the way: that costs time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from polyray.errors import RolloutError
from polyray.types import FinishReason, Sampling, TextDelta


def engine_input(prompt_token_ids: Sequence[int]) -> Any:
    """A prompt in the form vLLM takes without rendering it again for every sample of its group."""
    from vllm.inputs import tokens_input

    return tokens_input(list(prompt_token_ids))


def sampling_params(sampling: Sampling, *, stream: bool = False) -> Any:
    """`vllm.SamplingParams` without a seed: built and checked once, and copied for every sample."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.logprobs if sampling.prompt_logprobs else None,
        flat_logprobs=sampling.logprobs == 0,
        detokenize=stream or bool(sampling.stop),
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # each copy serves one request
    )


def with_seed(params: Any, seed: int) -> Any:
    """A copy of `vllm.SamplingParams` for one sample."""
    copied = copy.copy(params)
    copied.seed = seed
    return copied


def probe_params() -> Any:
    """The `vllm.SamplingParams` of one probe sequence: its own log-probs, and as little else as vLLM allows."""
    # prompt_logprobs ignores the temperature, also with processed log-probs: it is always temperature 1.
    return sampling_params(Sampling(max_tokens=1, temperature=0.0, logprobs=0, prompt_logprobs=True))


def prompt_logprobs(output: Any) -> np.ndarray:
    """[len - 1] float32 of a probe sequence's answer, from the second token on."""
    return np.array([row[token].logprob for token, row in _prompt_rows(output)], np.float32)


def _prompt_rows(output: Any) -> list[tuple[int, Any]]:
    """(token, vLLM's row) of the prompt's tokens from the second on."""
    return list(zip(output.prompt_token_ids[1:], list(output.prompt_logprobs)[1:], strict=True))


def text_delta(output: Any, sampling: Sampling) -> TextDelta:
    """One of vLLM's answers to a request."""
    (completion,) = output.outputs
    token_ids = tuple(completion.token_ids)
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    if sampling.logprobs == 0:  # flat: exactly the sampled token of each position
        logprobs = tuple(completion.logprobs.logprobs)
    elif sampling.logprobs is not None:
        rows = completion.logprobs
        logprobs = tuple(float(row[token].logprob) for token, row in zip(token_ids, rows, strict=True))
        alternatives = tuple(_likeliest(row, sampling.logprobs) for row in rows)
    if len(logprobs) != len(token_ids) and sampling.logprobs is not None:
        raise RolloutError(f"vLLM returned {len(logprobs)} log-probs for {len(token_ids)} sampled tokens")
    reason = completion.finish_reason
    known: FinishReason | None = "error" if reason not in (None, "stop", "length") else reason
    prompt = _prompt_rows(output) if sampling.prompt_logprobs and output.prompt_logprobs else []
    return TextDelta(
        completion.text,
        token_ids,
        logprobs,
        alternatives,
        known,
        tuple(float(row[token].logprob) for token, row in prompt),
        tuple(_likeliest(row, sampling.logprobs or 0) for _, row in prompt),
    )


def _likeliest(row: Any, count: int) -> tuple[tuple[int, float], ...]:
    """The sampled token is in vLLM's row too, wherever it ranks."""
    best = sorted(row.items(), key=lambda item: -item[1].logprob)[:count]
    return tuple((token, float(entry.logprob)) for token, entry in best)
