"""Raw files become engagement records: forum threads, headline tests, the user's own exports.

Rows that an importer leaves out are counted with their reason. Ids, clusters and engagement do not depend on the
order of the rows. Called by polyray curate and by training on a raw file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyray.config.curate import (
    BetaPriorSpec,
    ExportSource,
    HubSource,
    RecordsSource,
    SourceSpec,
    StackExchangeSource,
    TableSource,
    UpworthySource,
)
from polyray.data.fields import RowFields
from polyray.data.headlines import (
    HeadlinePackage,
    click_log_odds,
    packages_by_test,
    read_headline_tests,
    story_keys,
    story_texts,
)
from polyray.data.social import OPTIONAL, REQUIRED, SocialReply, reply_of_row
from polyray.data.sources import BUILTIN, data_path
from polyray.data.splits import linked_clusters
from polyray.data.stack_exchange import read_threads
from polyray.data.tables import Row, is_saved_dataset, plain_row, read_rows, saved_dataset
from polyray.data.words import canonical_text
from polyray.errors import ConfigError, DataError, boundary
from polyray.shelf.preferences.engagement.priors import BetaPrior, estimated_prior
from polyray.shelf.preferences.engagement.reading import build_record, read_records, text_hash
from polyray.shelf.preferences.engagement.records import EngagementRecord, moment

_KEY = "source.path"
_EXAMPLE = '{"prompt": "Who else got up early?", "completion": "The cat did.", "engagement": 12}'
_SOCIAL_NAMES = {"completion": "reply", "record_id": "reply_id"}
"""Our field -> what social.py calls it."""
_UPWORTHY_URL, _UPWORTHY_LICENCE = "https://osf.io/jd64p", "CC-BY-4.0"
_NAMES_OF_IDS = ("thread_id", "reply_id", "author_hash")


@dataclass(frozen=True, slots=True)
class Imported:
    """Records of a source.

    Example:
        Imported((EngagementRecord(...),), num_rows=1, left_out={})
    """

    records: tuple[EngagementRecord, ...]
    """Sorted by record_id."""
    num_rows: int
    """Replies, packages or rows of the file, with those that are no record."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> how many rows became no record of their own."""
    notes: tuple[str, ...] = ()
    """Notes for a reader of the figures: the prior, columns that were left alone."""


def import_records(spec: SourceSpec) -> list[EngagementRecord]:
    """The records of a source, sorted by record_id. Raises DataError, and ConfigError for an absent hub."""
    return list(import_source(spec).records)


def import_source(spec: SourceSpec) -> Imported:
    """`import_records` with what was left out."""
    if isinstance(spec, StackExchangeSource):
        found = _stack_exchange(spec)
    elif isinstance(spec, UpworthySource):
        found = _upworthy(spec)
    elif isinstance(spec, RecordsSource):
        found = _records(spec)
    else:
        found = _table(spec)
    if not found.records:
        raise DataError(
            f"{getattr(spec, 'path', '') or getattr(spec, 'name', '')}: no usable record (left out: "
            f"{dict(found.left_out) or 'none'}); set {_KEY} to another file, or loosen the source's limits"
        )
    return Imported(_linked(found.records), found.num_rows, found.left_out, found.notes)


def _stack_exchange(spec: StackExchangeSource) -> Imported:
    path = data_path("social_replies", spec.path, key=_KEY)
    if spec.path == BUILTIN:
        found = _table(ExportSource(origin="builtin"))
        return (
            found if spec.kind == "any" else Imported((), found.num_rows, {"of another kind": found.num_rows})
        )
    replies = read_threads(path, key=_KEY).replies
    wanted = [reply for reply in replies if spec.kind in ("any", reply.kind)]
    records = [
        _reply_record(reply, f"{_thread(reply)}/{reply.reply_id}", "stack_exchange", reply.engagement)
        for reply in wanted
    ]
    left_out = {f"replies of another kind than {spec.kind}": len(replies) - len(wanted)}
    return Imported(_with_positions(records), len(replies), _nonzero(left_out))


def _thread(reply: SocialReply) -> str:
    """Ids of threads repeat from site to site; their addresses do not."""
    site = reply.url.split("://")[-1].split("/")[0] if reply.url else ""
    return f"{site}/{reply.thread_id}" if site else reply.thread_id


def _reply_record(
    reply: SocialReply, record_id: str, origin: str, engagement: float, **more: Any
) -> EngagementRecord:
    thread = _thread(reply)
    parent = reply.parent_id if reply.parent_id.startswith("post-") else f"{thread}/{reply.parent_id}"
    values = {
        "record_id": record_id,
        "prompt": reply.prompt,
        "completion": reply.reply,
        "engagement": engagement,
        "prompt_id": f"{parent}/{reply.kind}" if reply.kind else parent,
        "cluster_id": f"thread:{thread}",
        "created_at": reply.created_at,
        "age_s": _seconds_between(reply.posted_at, reply.created_at),
        "kind": reply.kind,
        "origin": origin,
        "url": reply.url,
        "licence": reply.licence,
        **more,
    }
    return build_record(EngagementRecord, values, record_id)


def _seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds between two times; None if one is absent, or if the answer came first by the clock."""
    if start is None or end is None:
        return None
    seconds = (moment(end) - moment(start)).total_seconds()
    return seconds if seconds >= 0 else None


def _upworthy(spec: UpworthySource) -> Imported:
    path = data_path("headlines", spec.path, key=_KEY)
    found = read_headline_tests(path, key=_KEY)
    tests = packages_by_test(found.packages)
    stories = story_texts(tests)
    test_ids = sorted(stories)
    first_of = linked_clusters([story_keys(tests[test_id]) for test_id in test_ids])
    cluster_of = {
        test_id: f"story:{test_ids[first]}" for test_id, first in zip(test_ids, first_of, strict=True)
    }
    used = [package for test_id in test_ids for package in tests[test_id]]
    prior = _prior(spec.prior, [item.clicks for item in used], [item.impressions for item in used])
    pooled: dict[tuple[str, str, str], list[HeadlinePackage]] = {}
    for item in used:
        pooled.setdefault((item.test_id, item.image_id, item.headline.strip()), []).append(item)
    is_archive = spec.path != BUILTIN
    records = []
    for (test_id, image_id, headline), packages in pooled.items():
        clicks, shown = sum(p.clicks for p in packages), sum(p.impressions for p in packages)
        values = {
            "record_id": f"{test_id}/{text_hash(headline, image_id)}",
            "prompt": stories[test_id],
            "completion": headline,
            "engagement": _log_odds(clicks, shown, prior),
            "prompt_id": f"{test_id}/{image_id or 'no-image'}",
            "cluster_id": cluster_of[test_id],
            "impressions": shown,
            "clicks": clicks,
            "kind": "headline",
            "origin": "upworthy" if is_archive else "builtin",
            "url": _UPWORTHY_URL if is_archive else "",
            "licence": _UPWORTHY_LICENCE if is_archive else "Apache-2.0",
        }
        records.append(build_record(EngagementRecord, values, f"{path}: test {test_id}"))
    left_out = {
        "packages of weeks with faulty randomisation": found.num_dropped,
        "packages of tests without a text about the story": len(found.packages) - len(used),
        "packages pooled with one of the same test, image and headline": len(used) - len(records),
    }
    return Imported(
        tuple(records), len(found.packages) + found.num_dropped, _nonzero(left_out), (_said(prior),)
    )


def _records(spec: RecordsSource) -> Imported:
    records = read_records(Path(spec.path), _KEY)
    if not isinstance(records[0], EngagementRecord):
        raise DataError(
            f"{spec.path}: preference pairs, which have no engagement to curate by; train on them as they are"
        )
    fresh = [
        item.model_copy(update={"part": None, "phase": None})
        for item in records
        if isinstance(item, EngagementRecord)
    ]
    return Imported(tuple(fresh), len(records))


def _hub_rows(spec: HubSource) -> Iterator[Row]:
    """Rows of a data set of the hub, or of a directory that save_to_disk wrote.

    Raises ConfigError where it cannot be had: no network, no such name, no such split.
    """
    directory = Path(spec.name)
    if is_saved_dataset(directory):
        found: Any = saved_dataset(directory, spec.split, "source.name")
    else:
        import datasets

        with boundary(
            ConfigError,
            f"source.name={spec.name!r}, split {spec.split!r} cannot be had from the Hugging Face hub (is there a "
            "network, is HF_HUB_OFFLINE set, is the name right?); download it and use source.type=export with the "
            "file, or a directory that save_to_disk wrote",
        ):
            found = datasets.load_dataset(
                spec.name, spec.subset, split=spec.split, revision=spec.revision, streaming=False
            )
    for number, row in enumerate(found):
        yield f"{spec.name}[{spec.split}]:{number}", plain_row(row)


def _table(spec: TableSource) -> Imported:
    if isinstance(spec, HubSource):
        rows = list(_hub_rows(spec))
    else:
        assert isinstance(spec, ExportSource)
        path = data_path("social_replies", spec.path, key=_KEY)
        rows = list(read_rows(path, key=_KEY, example=_EXAMPLE))
    left_alone: set[str] = set()
    replies = [reply_of_row(_mapped(values, where, spec, left_alone)) for where, values in rows]
    if not replies:
        return Imported((), 0)
    prior = _table_prior(spec, replies, rows[0][0])
    origin = "builtin" if isinstance(spec, ExportSource) and spec.path == BUILTIN else spec.origin
    records = []
    for name, reply in zip(_export_ids(replies, [where for where, _ in rows]), replies, strict=True):
        record_id = f"{origin}/{name}"  # spreadsheets change ids that are numbers
        more: dict[str, Any] = {"impressions": reply.impressions}
        engagement = reply.engagement
        if prior is not None:
            assert reply.impressions is not None
            more["clicks"] = int(reply.engagement)
            engagement = _log_odds(int(reply.engagement), reply.impressions, prior)
        records.append(_reply_record(reply, record_id, origin, engagement, **more))
    notes = [f"columns left alone: {', '.join(sorted(left_alone))}"] if left_alone else []
    notes += [_said(prior)] if prior is not None else []
    return Imported(_with_positions(records), len(rows), {}, tuple(notes))


def _mapped(values: Mapping[str, Any], where: str, spec: TableSource, left_alone: set[str]) -> RowFields:
    """The row under the names that social.py knows; without `columns` a row has them, or ours, already."""
    known = {_SOCIAL_NAMES.get(name, name): name for name in (*REQUIRED, *OPTIONAL)}
    column_of = {_SOCIAL_NAMES.get(name, name): column for name, column in spec.columns.items()}
    absent = [column for column in column_of.values() if column not in values]
    if absent:
        raise DataError(
            f"{where}: source.columns names {absent[0]!r}, which is not a column; there are {', '.join(values)}"
        )
    taken = set(column_of.values())
    row = {name: values[column] for name, column in column_of.items()}
    for column, value in values.items():
        name = _SOCIAL_NAMES.get(column, column)
        if column in taken:
            continue
        if spec.columns and (name in row or name not in (*known, "likes") or _is_likes_twice(name, row)):
            left_alone.add(column)
        else:
            row[name] = value
    for name in _NAMES_OF_IDS:
        if isinstance(row.get(name), int) and not isinstance(row[name], bool):
            row[name] = str(row[name])  # data frames keep ids as numbers
    return RowFields(row, where)


def _is_likes_twice(name: str, row: Mapping[str, Any]) -> bool:
    return name in ("likes", "engagement") and ("likes" in row or "engagement" in row)


def _export_ids(replies: Sequence[SocialReply], wheres: Sequence[str]) -> list[str]:
    """The file's own ids, else a hash of what does not change when people react: text, post, author, time.

    Rows that agree in all of that are numbered by their engagement, so that the order of the file is of no
    importance.
    """
    ids = [""] * len(replies)
    same: dict[str, list[int]] = {}
    for at, reply in enumerate(replies):
        made = text_hash(
            reply.thread_id, reply.prompt, reply.reply, reply.author_hash or "", reply.created_at or ""
        )
        same.setdefault(reply.reply_id or made, []).append(at)
    for name, rows in same.items():
        if len(rows) > 1 and replies[rows[0]].reply_id:
            raise DataError(
                f"{wheres[rows[1]]}: reply_id {name!r} is already that of {wheres[rows[0]]}; ids must differ"
            )
        rows.sort(key=lambda at: (-replies[at].engagement, replies[at].impressions or 0, repr(replies[at])))
        for number, at in enumerate(rows):
            ids[at] = name if number == 0 else f"{name}-{number + 1}"
    return ids


def _table_prior(spec: TableSource, replies: Sequence[SocialReply], first: str) -> BetaPrior | None:
    """The prior where engagement is log-odds, else None. Raises DataError where rows do not allow it."""
    num_without = sum(reply.impressions is None for reply in replies)
    if spec.scale == "count" or (spec.scale == "auto" and num_without == len(replies)):
        return None
    if num_without:
        raise DataError(
            f"{first.rpartition(':')[0]}: {num_without} of {len(replies)} rows have no impressions; counts and "
            "log-odds cannot be mixed: fill them in, remove the rows, or set source.scale=count"
        )
    for reply in replies:
        if not float(reply.engagement).is_integer() or not 0 <= reply.engagement <= (reply.impressions or 0):
            raise DataError(
                f"{first.rpartition(':')[0]}: engagement {reply.engagement:g} of {reply.reply[:40]!r} is not a count "
                f"between 0 and its impressions {reply.impressions}; correct it, or set source.scale=count"
            )
    return _prior(
        spec.prior,
        [int(reply.engagement) for reply in replies],
        [reply.impressions or 0 for reply in replies],
    )


def _prior(spec: BetaPriorSpec, clicks: Sequence[int], impressions: Sequence[int]) -> BetaPrior:
    if spec.rate is not None and spec.impressions is not None:
        return BetaPrior(spec.rate, spec.impressions)
    try:
        found = estimated_prior(clicks, impressions)
    except ValueError as error:
        raise DataError(f"source.prior: {error}") from None
    return BetaPrior(
        found.rate if spec.rate is None else spec.rate,
        found.impressions if spec.impressions is None else spec.impressions,
    )


def _log_odds(clicks: int, impressions: int, prior: BetaPrior) -> float:
    return click_log_odds(
        clicks, impressions, prior_click_rate=prior.rate, prior_impressions=prior.impressions
    )


def _said(prior: BetaPrior) -> str:
    return (
        f"engagement is the log-odds under a Beta prior with rate {prior.rate:.6g} worth {prior.impressions:.6g} "
        "impressions"
    )


def _with_positions(records: Sequence[EngagementRecord]) -> tuple[EngagementRecord, ...]:
    """Position by time within each prompt_id where all its records have a time; `age_s` where it has none yet."""
    by_prompt: dict[str, list[EngagementRecord]] = {}
    for record in records:
        by_prompt.setdefault(record.prompt_id, []).append(record)
    placed: list[EngagementRecord] = []
    for siblings in by_prompt.values():
        if any(record.created_at is None for record in siblings):
            placed += siblings
            continue
        siblings.sort(key=lambda record: (moment(record.created_at or ""), record.record_id))
        for position, record in enumerate(siblings):
            age = record.age_s
            if age is None:
                age = _seconds_between(siblings[0].created_at, record.created_at)
            placed.append(record.model_copy(update={"position": position, "age_s": age}))
    return tuple(placed)


def _linked(records: Sequence[EngagementRecord]) -> tuple[EngagementRecord, ...]:
    """Sorted; records that share a cluster, a prompt_id or a prompt get one cluster, the first by name."""
    ordered = sorted(records, key=lambda record: (record.cluster_id, record.record_id))
    first_of = linked_clusters(
        [
            (
                f"cluster:{record.cluster_id}",
                f"id:{record.prompt_id}",
                f"prompt:{canonical_text(record.prompt) or record.prompt}",
            )
            for record in ordered
        ]
    )
    linked = [
        record
        if ordered[first].cluster_id == record.cluster_id
        else record.model_copy(update={"cluster_id": ordered[first].cluster_id})
        for record, first in zip(ordered, first_of, strict=True)
    ]
    return tuple(sorted(linked, key=lambda record: record.record_id))


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter({reason: number for reason, number in counts.items() if number}))
