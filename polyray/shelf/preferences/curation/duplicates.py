"""Removal of equal and almost equal completions (the best one stays), and clusters by likeness.

Called by pipeline.py. fingerprints.py measures likeness.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from polyray.config.curate import DuplicateSpec, NearDuplicateSpec
from polyray.data.splits import linked_clusters
from polyray.data.words import canonical_text
from polyray.shelf.preferences.curation.fingerprints import MIN_WORDS, SimilarTexts, similar_groups
from polyray.shelf.preferences.engagement import EngagementRecord

EXACT, NEAR = "exact duplicate", "near duplicate"


def duplicates(
    records: Sequence[EngagementRecord], spec: DuplicateSpec, protected: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """record_id of what goes -> (EXACT or NEAR, what it duplicates).

    Records are met in the order of protected ones (a person wants them), engagement, record_id; one goes if it is
    like one that stays. So no two that stay are alike, protected ones aside.
    """
    order = sorted(
        records, key=lambda item: (item.record_id not in protected, -item.engagement, item.record_id)
    )
    scopes = [item.prompt_id if spec.scope == "prompt" else "" for item in order]
    index = SimilarTexts([item.completion for item in order], spec.near) if spec.near is not None else None
    first_with: dict[tuple[str, str], str] = {}
    gone: dict[str, tuple[str, str]] = {}
    for at, record in enumerate(order):
        may_go = record.record_id not in protected
        first = first_with.setdefault((scopes[at], _canonical(record.completion)), record.record_id)
        if spec.exact and first != record.record_id and may_go:
            gone[record.record_id] = (EXACT, f"of {first}")
            continue
        if index is None:
            continue
        alike = [other for other in index.similar_to(at) if scopes[other] == scopes[at]] if may_go else []
        alike = (
            [other for other in alike if not _same_text(order[other], record)] if not spec.exact else alike
        )
        if alike:
            gone[record.record_id] = (NEAR, f"of {order[alike[0]].record_id}")
        else:
            index.insert(at)
    return gone


def clusters(records: Sequence[EngagementRecord], near: NearDuplicateSpec | None) -> dict[str, str]:
    """record_id -> the cluster it belongs to, named after the first of those that are joined.

    Records are joined if they share a cluster, a prompt_id or a prompt, or if their prompts or completions are almost
    the same. Short texts (below MIN_WORDS words) join nothing: "Thanks!" would make
    one cluster of everything.
    """
    ordered = sorted(records, key=lambda record: (record.cluster_id, record.record_id))
    prompts = [_canonical(record.prompt) for record in ordered]
    keys: list[set[str]] = [
        {f"cluster:{record.cluster_id}", f"id:{record.prompt_id}", f"prompt:{prompt}"}
        for record, prompt in zip(ordered, prompts, strict=True)
    ]
    if near is not None:
        completions = [_canonical(record.completion) for record in ordered]
        for kind, texts in (("prompt", prompts), ("completion", completions)):
            different = sorted(set(texts))
            groups = dict(zip(different, similar_groups(different, near), strict=True))
            for row, text in zip(keys, texts, strict=True):
                if len(text.split()) >= MIN_WORDS:
                    row.add(f"like-{kind}:{groups[text]}")
    first_of = linked_clusters(keys)
    return {
        record.record_id: ordered[first].cluster_id for record, first in zip(ordered, first_of, strict=True)
    }


def _canonical(text: str) -> str:
    return canonical_text(text) or text.strip()


def _same_text(a: EngagementRecord, b: EngagementRecord) -> bool:
    return _canonical(a.completion) == _canonical(b.completion)
