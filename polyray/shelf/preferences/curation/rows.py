"""Rows of sft.jsonl (polyray sft, data.type jsonl) and of rl.jsonl (task.type jsonl), with where they come from.

    sft.jsonl   {"messages": [user, assistant], "record_id", "prompt_id", "cluster_id", "engagement", "url", ...}
    rl.jsonl    {"messages": [user], "id", "cluster", "response", "metadata": {"source", "url", "licence", ...}}

`mode: completion` writes "prompt" and "completion", or "prompt", instead of messages. rl.jsonl has no `reference`:
a task with one takes every other text for wrong; its best human text is `response`. Called by pipeline.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from polyray.config.curate import RowsSpec
from polyray.data.words import first_words
from polyray.shelf.preferences.engagement import EngagementRecord
from polyray.types import Message, Prompt

_ATTRIBUTION = ("url", "licence", "origin", "kind")


def prompt_text(record: EngagementRecord, spec: RowsSpec) -> str:
    """Prompt of the model, with its instruction."""
    return (spec.instruction or default_instruction(record)).replace("{source}", source_text(record, spec))


def source_text(record: EngagementRecord, spec: RowsSpec) -> str:
    """The post or story, cut where it is too long."""
    if spec.max_source_words is None:
        return record.prompt
    return first_words(record.prompt, spec.max_source_words)


def default_instruction(record: EngagementRecord) -> str:
    """Instruction of the task to which the record's kind belongs."""
    from polyray.tasks.headlines import Headlines
    from polyray.tasks.social_replies import SocialReplies

    task = Headlines if record.kind == "headline" else SocialReplies
    return task.instructions[""]


def as_prompt(record: EngagementRecord, spec: RowsSpec) -> Prompt:
    """The record's prompt as the tokenizer sees it."""
    text = prompt_text(record, spec)
    messages: tuple[Message, ...] | None = (
        ({"role": "user", "content": text},) if spec.mode == "chat" else None
    )
    return Prompt(record.record_id, text, messages=messages, cluster_id=record.cluster_id)


def sft_rows(records: Iterable[EngagementRecord], spec: RowsSpec) -> list[dict[str, Any]]:
    """One row per completion, sorted by record_id."""
    return [_sft_row(record, spec) for record in sorted(records, key=lambda record: record.record_id)]


def rl_rows(records: Iterable[EngagementRecord], spec: RowsSpec) -> list[dict[str, Any]]:
    """One row per prompt, sorted by id; equal prompts with several prompt_ids are one."""
    rows = [_rl_row(_best_first(siblings), spec) for siblings in _by_prompt(records).values()]
    return sorted(rows, key=lambda row: row["id"])


def _sft_row(record: EngagementRecord, spec: RowsSpec) -> dict[str, Any]:
    text = prompt_text(record, spec)
    if spec.mode == "chat":
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": record.completion}]
        row: dict[str, Any] = {"messages": turns}
    else:
        row = {"prompt": text, "completion": record.completion}
    names = ("record_id", "prompt_id", "cluster_id", "engagement")
    return row | {name: getattr(record, name) for name in names} | _attribution(record)


def _rl_row(best_first: Sequence[EngagementRecord], spec: RowsSpec) -> dict[str, Any]:
    best = best_first[0]
    text = prompt_text(best, spec)
    asked = {"messages": [{"role": "user", "content": text}]} if spec.mode == "chat" else {"prompt": text}
    metadata = {
        "source": source_text(best, spec),
        "prompt_ids": sorted({record.prompt_id for record in best_first}),
        "completions": len(best_first),
        "best_engagement": best.engagement,
        **_attribution(best),
    }
    first_id = metadata["prompt_ids"][0]
    return {
        **asked,
        "id": first_id,
        "cluster": best.cluster_id,
        "response": best.completion,
        "metadata": metadata,
    }


def _attribution(record: EngagementRecord) -> dict[str, str]:
    return {name: getattr(record, name) for name in _ATTRIBUTION if getattr(record, name)}


def _by_prompt(records: Iterable[EngagementRecord]) -> dict[str, list[EngagementRecord]]:
    prompts: dict[str, list[EngagementRecord]] = {}
    for record in records:
        prompts.setdefault(record.prompt, []).append(record)
    return prompts


def _best_first(records: Iterable[EngagementRecord]) -> list[EngagementRecord]:
    return sorted(records, key=lambda record: (-record.engagement, record.record_id))
