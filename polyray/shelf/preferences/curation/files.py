"""The files of a curation: what goes in and what it was, what comes out. Called by polyray curate.

All outputs are functions of the records, the configuration and the decisions, not of the order of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polyray.config.curate import CurateConfig, HubSource, RecordsSource, UpworthySource
from polyray.data.flagged_words import flagged_words_path, read_flagged_words
from polyray.data.sources import data_path
from polyray.errors import ConfigError
from polyray.runs.atomic import atomic_write_bytes, atomic_write_json, atomic_write_text
from polyray.shelf.preferences.curation.pipeline import Curated
from polyray.shelf.preferences.curation.review import Review, ReviewRow, read_reviews, review_csv
from polyray.shelf.preferences.curation.rows import rl_rows, sft_rows
from polyray.shelf.preferences.engagement import EngagementRecord, Imported, data_sha256
from polyray.shelf.preferences.engagement.reading import PARTS

REVIEW_FILE = "review.csv"


def input_digests(config: CurateConfig) -> dict[str, str]:
    """Digests of a curation's inputs besides its configuration; a finished one is repeated when they change."""
    source = config.source
    if isinstance(source, HubSource):
        digests = {"source": f"{source.name} {source.subset} {source.split} {source.revision}"}
    elif isinstance(source, RecordsSource):
        digests = {"source": data_sha256(Path(source.path))}
    else:
        name = "headlines" if isinstance(source, UpworthySource) else "social_replies"
        digests = {"source": data_sha256(data_path(name, source.path, key="source.path"))}
    decided = [(name, review.decision, review.note) for name, review in sorted(own_reviews(config).items())]
    digests["review"] = hashlib.sha256(json.dumps(decided).encode()).hexdigest()
    if config.filters.flagged_words is not None:
        read_flagged_words(config.filters.flagged_words)
        digests["flagged words"] = data_sha256(flagged_words_path(config.filters.flagged_words))
    return digests


def own_reviews(config: CurateConfig) -> dict[str, Review]:
    """The decisions in force: of `review`, or of the run's own file where it exists.

    Raises DataError for a broken file, and ConfigError where the run's own file says other than `review`: it
    would be overwritten.
    """
    own_file = config.run_dir / REVIEW_FILE
    own = read_reviews(own_file) if own_file.is_file() else {}
    if config.review is None:
        return own
    given = read_reviews(Path(config.review))

    def decided(reviews: Mapping[str, Review], name: str) -> tuple[str, str]:
        return (reviews[name].decision, reviews[name].note) if name in reviews else ("", "")

    differing = [name for name in own if decided(own, name) != decided(given, name)]
    if differing and own_file.resolve() != Path(config.review).resolve():
        raise ConfigError(
            f"{own[differing[0]].where} decides on {differing[0]!r} otherwise than review={config.review}, and a run "
            f"would overwrite it; carry it over, delete {own_file}, or set review to null"
        )
    return given


def write_outputs(
    config: CurateConfig, root: Path, imported: Imported, curated: Curated, reviews: Mapping[str, Review]
) -> None:
    """Write all files but DONE; each file is complete or unchanged."""
    from polyray.shelf.preferences.curation_report import curation_page, report_numbers

    (root / "data").mkdir(parents=True, exist_ok=True)
    kept = curated.kept
    for part in PARTS:
        lines = (record.model_dump_json(exclude_none=True) for record in kept if record.part == part)
        _write_lines(root / "data" / f"{part}.jsonl", lines)
    tables = {
        "sft": sft_rows((r for r in kept if r.phase == "sft"), config.rows),
        "sft_validation": sft_rows((r for r in kept if r.part == "validation"), config.rows),
        "rl": rl_rows((r for r in kept if r.phase == "rl"), config.rows),
        "rl_held_out": rl_rows((r for r in kept if r.part == "test"), config.rows),
    }
    for name, rows in tables.items():
        _write_lines(root / f"{name}.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))
    numbers = report_numbers(config, imported.records, curated)
    atomic_write_json(root / "statistics.json", curated.statistics)
    atomic_write_json(root / "report.json", numbers)
    atomic_write_text(root / "report.html", curation_page(numbers))
    content = review_csv(_review_rows(config, imported.records, curated, reviews))
    atomic_write_bytes(root / REVIEW_FILE, content)


def _review_rows(
    config: CurateConfig, records: Iterable[EngagementRecord], curated: Curated, reviews: Mapping[str, Review]
) -> list[ReviewRow]:
    """Rows of the review: kept records, most engagement first; then dropped ones, by reason."""
    from polyray.shelf.preferences.curation_report import excerpt

    place: dict[str, Any] = {record.record_id: record for record in curated.kept}

    def reason_of(record: EngagementRecord) -> str:
        if record.record_id in curated.dropped:
            reason, detail = curated.dropped[record.record_id]
            return f"{reason}: {excerpt(detail)}"
        own = place[record.record_id]
        return f"kept: {own.part}" + (f"/{own.phase}" if own.phase else "")

    def order(record: EngagementRecord) -> tuple[str, float, str]:
        reason = curated.dropped.get(record.record_id, ("", ""))[0]
        return reason, -record.engagement, record.record_id

    none = Review("")
    return [
        ReviewRow(
            record.record_id,
            reviews.get(record.record_id, none).decision,
            reviews.get(record.record_id, none).note,
            reason_of(record),
            record.engagement,
            excerpt(record.prompt),
            excerpt(record.completion),
        )
        for record in sorted(records, key=order)
    ]


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))
