"""From text requests to vLLM's, and from its answers to deltas: what both text engines on vLLM share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polyray.config.rollout import RolloutSpec
from polyray.rollout.text_engine import TextDelta, TextRequest
from polyray.rollout.vllm_build import check_build
from polyray.rollout.vllm_engine import engine_arguments
from polyray.types import FinishReason


def text_engine_arguments(
    model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int, adapters: int
) -> dict[str, Any]:
    """The arguments of vLLM for an engine that serves so many adapters side by side.

    Raises ConfigError as `engine_arguments` does, naming the service's field.
    """
    check_build(spec.gpus_per_worker, "num_gpus")
    # People compare candidates by the model's own log-probs, at any temperature or top_p that they asked for; a
    # token that top_p cuts off would have a log-prob of minus infinity, which JSON cannot carry.
    return engine_arguments(model_dir, spec, dtype, lora_rank, adapters) | {"logprobs_mode": "raw_logprobs"}


def text_params(request: TextRequest) -> Any:
    """The `vllm.SamplingParams` of one completion."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        seed=request.seed,
        logprobs=sampling.logprobs,
        detokenize=decoded_by_vllm(request),
        output_kind=RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def decoded_by_vllm(request: TextRequest) -> bool:
    """Token by token, which costs time, and is needed only where text is wanted or looked at on the way."""
    return request.stream or bool(request.sampling.stop)


def as_delta(request: TextRequest, output: Any, tokenizer: Any) -> TextDelta:
    """One of vLLM's answers to `request`."""
    (completion,) = output.outputs
    token_ids = tuple(completion.token_ids)
    text = completion.text
    if not decoded_by_vllm(request):
        text = tokenizer.decode(token_ids, skip_special_tokens=True)
    rows = completion.logprobs if request.sampling.logprobs is not None else None
    return TextDelta(
        text=text,
        token_ids=token_ids,
        logprobs=() if rows is None else _sampled(token_ids, rows),
        alternatives=() if rows is None or not request.sampling.logprobs else _alternatives(request, rows),
        finish_reason=finish_reason(completion.finish_reason),
    )


def finish_reason(reason: str | None) -> FinishReason | None:
    """vLLM's finish reason in our terms; None while the completion runs."""
    if reason is None:
        return None
    return "stop" if reason == "stop" else "length" if reason == "length" else "error"


def _sampled(token_ids: tuple[int, ...], rows: Any) -> tuple[float, ...]:
    return tuple(float(row[token].logprob) for token, row in zip(token_ids, rows, strict=True))


def _alternatives(request: TextRequest, rows: Any) -> tuple[tuple[tuple[int, float], ...], ...]:
    """The likeliest of each position; the sampled token is in vLLM's row too, wherever it ranks."""
    wanted = request.sampling.logprobs
    best = [sorted(row.items(), key=lambda item: -item[1].logprob)[:wanted] for row in rows]
    return tuple(tuple((token, float(entry.logprob)) for token, entry in row) for row in best)
