"""From vLLM's requests and answers to groups: what both of our engines on vLLM share.

A group is as many requests as it has samples, `<group id>/<submission>/<sample>`; it is complete when all of them
are. A group that was given up and is asked for again has another submission number: what the engine may still say of
the first one is not taken for the second.
Detokenisation is ours: once, on finished sequences, a group at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from polyray.data.chat import encode_prompt, stop_tokens
from polyray.errors import DataError, RolloutError
from polyray.types import Completion, FinishReason, Group, GroupRequest, PolicyVersion


class _Running:
    """A group in progress: its policy version, and the completions that are done."""

    __slots__ = ("completions", "missing", "number", "policy", "prompt_token_ids", "request")

    def __init__(
        self, number: int, request: GroupRequest, prompt_token_ids: list[int], policy: PolicyVersion
    ) -> None:
        self.number = number
        self.request = request
        self.prompt_token_ids = prompt_token_ids
        self.policy = policy
        self.completions: list[Any] = [None] * len(request.seeds)
        self.missing = len(request.seeds)

    @property
    def request_ids(self) -> list[str]:
        return [f"{self.request.group_id}/{self.number}/{index}" for index in range(len(self.completions))]


class RunningGroups:
    """The groups an engine was given and has not finished."""

    def __init__(self, tokenizer: Any, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._running: dict[int, _Running] = {}
        self._admitted = 0

    def __bool__(self) -> bool:
        return bool(self._running)

    def admit(self, request: GroupRequest, policy: PolicyVersion) -> list[int]:
        """Remembers a group, which is `policy`'s from now on; its prompt's token ids. DataError where the
        prompt is too long."""
        prompt_token_ids = encode_prompt(self._tokenizer, request.prompt)
        room = self._max_model_len - request.max_completion_tokens
        if len(prompt_token_ids) > room:
            raise DataError(
                f"prompt {request.prompt.prompt_id!r} has {len(prompt_token_ids)} tokens, the limit "
                f"is {room}; "
                "raise rollout.max_prompt_tokens"
            )
        self._admitted += 1
        self._running[request.group_id] = _Running(self._admitted, request, prompt_token_ids, policy)
        return prompt_token_ids

    def params(self, request: GroupRequest) -> Any:
        """`group_params` with the tokens that end a completion of this prompt."""
        return group_params(request, stop_tokens(self._tokenizer, request.prompt))

    def request_ids(self, group_id: int) -> list[str]:
        """Request ids of a running group, one per sample."""
        return self._running[group_id].request_ids

    def take(self, output: Any) -> Group | None:
        """A finished request's answer; the group, where it was the last one missing."""
        group_id, number, index = output.request_id.split("/")
        running = self._running.get(int(group_id))
        if running is None or running.number != int(number):
            return None
        running.completions[int(index)] = output.outputs[0]
        running.missing -= 1
        if running.missing:
            return None
        del self._running[int(group_id)]
        return self._as_group(running)

    def forget(self, group_id: int) -> tuple[PolicyVersion, list[str]] | None:
        """(version, requests) of a group that is given up; None where it is not running."""
        running = self._running.pop(group_id, None)
        if running is None:
            return None
        return running.policy, running.request_ids

    def _as_group(self, running: _Running) -> Group:
        request = running.request
        token_ids = [np.asarray(output.token_ids, np.int32) for output in running.completions]
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        completions = tuple(
            Completion(tokens, _sampled_logprobs(output), text, _finish_reason(output.finish_reason), seed)
            for tokens, output, text, seed in zip(
                token_ids, running.completions, texts, request.seeds, strict=True
            )
        )
        prompt = np.asarray(running.prompt_token_ids, np.int32)
        return Group(request.group_id, request.prompt, prompt, completions, running.policy)


def engine_input(prompt_token_ids: list[int]) -> Any:
    """A prompt in the form vLLM takes without rendering it again for every sample of its group."""
    from vllm.inputs import tokens_input

    return tokens_input(prompt_token_ids)


def sampling_params(request: GroupRequest, params: Any = None) -> list[Any]:
    """One `vllm.SamplingParams` per sample, equal but for the seed; `params`: of the group, if there are."""
    params = group_params(request) if params is None else params
    return [with_seed(params, seed) for seed in request.seeds]


def group_params(request: GroupRequest, stop_token_ids: Sequence[int] = ()) -> Any:
    """The `vllm.SamplingParams` that the samples of a group share, without a seed.

    `stop_token_ids` end a completion, as the end of sequence does.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # Built and checked once a group; each copy serves one request, so vLLM need not clone it deeply again.
    return SamplingParams(
        temperature=request.temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=request.max_completion_tokens,
        stop_token_ids=list(stop_token_ids),
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def probe_params() -> Any:
    """The `vllm.SamplingParams` of one probe sequence: its own log-probs, and as little else as vLLM allows."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # prompt_logprobs ignores the temperature, also with processed log-probs: it is always temperature 1.
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def prompt_logprobs(output: Any) -> np.ndarray:
    """[len - 1] float32 of a probe sequence's answer, from the second token on."""
    tokens = output.prompt_token_ids
    return np.array(
        [row[token].logprob for token, row in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)],
        np.float32,
    )


def with_seed(params: Any, seed: int) -> Any:
    """A copy of `vllm.SamplingParams` for one sample."""
    copied = copy.copy(params)
    copied.seed = seed
    return copied


def _sampled_logprobs(output: Any) -> np.ndarray:
    """[T] float32: with logprobs=0 the flat list holds exactly the sampled token of each position."""
    values = np.asarray(output.logprobs.logprobs, np.float32)
    if values.shape != (len(output.token_ids),):
        raise RolloutError(
            f"vLLM returned {values.size} log-probs for {len(output.token_ids)} sampled tokens"
        )
    return values


def _finish_reason(reason: str | None) -> FinishReason:
    return "stop" if reason == "stop" else "length" if reason == "length" else "error"
