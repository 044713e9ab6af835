"""Training data from people's selections: preference pairs and demonstrations.

    pairs           {"prompt", "chosen", "rejected", "metadata"}, one rejected text a row: polyray train_reward reads
                    them as they are (data.path), TRL's trainers, too
    demonstrations  {"prompt", "completion"} or {"messages"}: polyray sft with data.type=jsonl

A prompt of messages gives texts as messages. The latest selection of a set counts. A text that a person wrote or
improved is the chosen one, and what it was made of becomes a rejected one. A candidate that is almost the chosen text
is no rejected one: the person did not mean the difference. Near-duplicates that were collapsed and never shown are
not used. Demonstrations carry no metadata: polyray sft divides rows by their content, and equal ones must stay
together. The person is not exported. Pure; called by polyray curate selections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from polyray.data.selections.records import CandidatesRecord, SelectionRecord, StoredRecord

MAX_SIMILARITY = 0.9
"""Jaccard similarity of character 5-grams from which on two texts count as one."""
_SHINGLE = 5

NOT_PICKED = "not picked yet"
FEW = "too few candidates were shown"
NONE = "none of them was good enough"
BLANK_PROMPT = "blank prompt"
OPEN_TURN = "the messages do not end with the user's turn"
BLANK_CHOICE = "blank choice"
NOTHING_TO_REJECT = "no pair: every other candidate is the same text"
CUT_OFF = "no demonstration: the text is cut off at max_tokens"


@dataclass(frozen=True, slots=True)
class Choice:
    """A person's preference in one set.

    Example:
        Choice(text="4", index=0, is_written=False, rejected=((1, "5"),))
    """

    text: str
    index: int | None
    """The place of the candidate that was picked; None: the person wrote a text instead."""
    is_written: bool
    """Whether the text is the person's own."""
    rejected: tuple[tuple[int, str], ...]
    """(place, text) of what is worse, in the order shown; what the text was made of comes first."""


@dataclass(slots=True)
class Exported:
    """Rows, and sets that gave none, e.g. Exported(pairs=[...], demonstrations=[...], counts=Counter(sets=9))."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    demonstrations: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """sets, selections, picked, none (nothing picked and nothing written), written_instead, edited."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> sets that gave no row; those that begin with `no` gave rows of the other kind."""


def export(records: Iterable[StoredRecord], min_candidates: int = 2) -> Exported:
    """Rows in the order of `records`; sets that showed fewer than `min_candidates` give none."""
    exported = Exported()
    for record in records:
        exported.counts["sets"] += 1
        if record.selection is not None:
            exported.counts.update(_kinds(record.selection, record.candidates))
        why = _why_not(record, min_candidates)
        choice = None if why is not None else _choice(record)
        if choice is None:
            exported.left_out[why or BLANK_CHOICE] += 1
            continue
        _add(exported, record.candidates, choice)
    return exported


def _kinds(selection: SelectionRecord, shown: CandidatesRecord) -> Iterator[str]:
    yield "selections"
    index, edited = selection.selected_index, selection.edited_text
    if index is not None:
        yield "picked"
        if _is_edit(edited, shown.candidates[index]["text"]):
            yield "edited"
    else:
        yield "none" if edited is None else "written_instead"


def _why_not(record: StoredRecord, min_candidates: int) -> str | None:
    """Reason why a set gives no row, without a look at its texts; None if it may."""
    selection, shown = record.selection, record.candidates
    if selection is None:
        return NOT_PICKED
    if len(shown.candidates) < min_candidates:
        return FEW
    if selection.selected_index is None and selection.edited_text is None:
        return NONE
    if not shown.last_turn.strip():
        return BLANK_PROMPT
    messages = shown.request.get("messages")
    return OPEN_TURN if messages and messages[-1]["role"] != "user" else None


def _choice(record: StoredRecord) -> Choice | None:
    """A person's choice; None if the text that was picked is blank."""
    selection, candidates = record.selection, record.candidates.candidates
    assert selection is not None
    index, edited = selection.selected_index, selection.edited_text
    picked: str | None = None if index is None else candidates[index]["text"]
    is_written = _is_edit(edited, picked)
    text = edited if is_written else picked
    if text is None or not text.strip():
        return None
    preferred = [text]
    rejected: list[tuple[int, str]] = []
    if is_written and index is not None and picked is not None:
        preferred.append(picked)
        rejected += [(index, picked)] if picked.strip() else []
    for place, candidate in enumerate(candidates):
        other = candidate["text"]
        if place == index or not other.strip() or candidate.get("finish_reason") == "error":
            continue
        is_worse = not any(is_alike(other, better) for better in preferred)
        if is_worse and not any(_is_same(other, worse) for _, worse in rejected):
            rejected.append((place, other))
    return Choice(text, index, is_written, tuple(rejected))


def _is_edit(edited: str | None, picked: str | None) -> bool:
    """Outer white space aside: a text field adds some, and inside a text it may be what was repaired."""
    return edited is not None and (picked is None or edited.strip() != picked.strip())


def is_alike(a: str, b: str, max_similarity: float = MAX_SIMILARITY) -> bool:
    """Whether two texts are the same, white space aside, or share `max_similarity` of their 5-grams or more."""
    if _is_same(a, b):
        return True
    first, second = _shingles(a), _shingles(b)
    return len(first & second) >= max_similarity * len(first | second)


def _is_same(a: str, b: str) -> bool:
    """White space aside."""
    return a.split() == b.split()


def _shingles(text: str) -> set[str]:
    spaced = " ".join(text.split())
    return {spaced[at : at + _SHINGLE] for at in range(max(1, len(spaced) - _SHINGLE + 1))}


def _add(exported: Exported, shown: CandidatesRecord, choice: Choice) -> None:
    messages = shown.request.get("messages")
    prompt = shown.request["prompt"] if messages is None else [dict(message) for message in messages]

    def turn(text: str) -> Any:
        return text if messages is None else [{"role": "assistant", "content": text}]

    for place, text in choice.rejected:
        metadata = _metadata(shown, choice) | {"rejected_position": place}
        exported.pairs.append(
            {"prompt": prompt, "chosen": turn(choice.text), "rejected": turn(text), "metadata": metadata}
        )
    if not choice.rejected:
        exported.left_out[NOTHING_TO_REJECT] += 1
    if not choice.is_written and _is_cut_off(shown, choice.index):
        exported.left_out[CUT_OFF] += 1
    elif messages is None:
        exported.demonstrations.append({"prompt": prompt, "completion": choice.text})
    else:
        exported.demonstrations.append({"messages": [*prompt, *turn(choice.text)]})


def _is_cut_off(shown: CandidatesRecord, index: int | None) -> bool:
    return index is not None and shown.candidates[index].get("finish_reason") == "length"


def _metadata(shown: CandidatesRecord, choice: Choice) -> dict[str, Any]:
    return {
        "candidates_id": shown.id,
        "model": shown.model,
        "policy": shown.policy_sha256,
        "selector": shown.answer.get("selector"),
        "k": len(shown.candidates),
        "position": choice.index,
        "edited": choice.is_written,
    }
