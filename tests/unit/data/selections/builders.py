"""Sets of candidates as the generation service answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyray.data.selections import CandidatesRecord

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def candidates_record(
    name: str,
    texts: Sequence[str],
    scores: Sequence[float | None] | None = None,
    *,
    prompt: str | Sequence[Mapping[str, str]] = "Which way?",
    created: float = 1767225600.0,
    owner: str = "ann",
    model: str = "policy-v17",
    selector: str = "logprob",
    selected_index: int = 0,
    k: int | None = None,
    logprobs: Sequence[float] | None = None,
    finish_reasons: Sequence[str] | None = None,
) -> CandidatesRecord:
    """`prompt` is a text or messages; without `scores` nothing is scored, without `k` all asked for are shown."""
    num = len(texts)
    asked = {"prompt": prompt} if isinstance(prompt, str) else {"messages": [dict(turn) for turn in prompt]}
    candidates = [
        {
            "index": place,
            "sample": place,
            "text": text,
            "score": None if scores is None else scores[place],
            "logprob": -1.0 - place if logprobs is None else logprobs[place],
            "num_tokens": len(text) + 1,
            "finish_reason": "stop" if finish_reasons is None else finish_reasons[place],
            "cluster": place,
            "seed": place,
        }
        for place, text in enumerate(texts)
    ]
    answer: dict[str, Any] = {
        "id": name,
        "created": int(created),
        "model": "latest",
        "policy": {"model": model, "version": 17, "sha256": SHA256},
        "selector": selector,
        "selected_index": selected_index,
        "candidates": candidates,
        "collapsed": [{"sample": num, "text": f"{texts[0]} ", "candidate": 0}],
        "diversity": {"source": "ngram", "mean_distance": 0.5, "clusters": num},
        "usage": {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12},
        "timings": dict.fromkeys(("generate_s", "first_token_s", "score_s", "choose_s", "total_s"), 0.1),
    }
    request = {**asked, "k": num if k is None else k, "selector": selector}
    return CandidatesRecord(name, created, owner, model, SHA256, request, answer)
