"""review.csv: written for people and spreadsheets, read back as they left it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyray.errors import DataError
from polyray.shelf.preferences.curation.review import (
    COLUMNS,
    Review,
    ReviewRow,
    check_known,
    read_reviews,
    review_csv,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row(record_id: str, decision: str, note: str, completion: str = "Yes.") -> ReviewRow:
    assert decision in ("keep", "drop", "")
    return ReviewRow(record_id, decision, note, "kept: test", -1.5, "Cite?", completion)


def read(path: Path, content: bytes | str) -> dict[str, Review]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_reviews(path)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["keep", "drop", ""]), TEXTS), max_size=5))
def test_reviews_that_were_written_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str, str]]
) -> None:
    rows = [
        row(f"{at}{name}".strip(), decision, note.strip()) for at, (name, decision, note) in enumerate(items)
    ]
    found = read(tmp_path_factory.mktemp("review") / "review.csv", review_csv(rows))
    expected = {r.record_id: (r.decision, r.note) for r in rows if r.decision or r.note}
    assert {name: (review.decision, review.note) for name, review in found.items()} == expected


@pytest.mark.parametrize("start", FORMULA)
def test_review_csv_has_no_formula_in_a_cell(tmp_path: Path, start: str) -> None:
    evil = f'{start}HYPERLINK("http://x.org";"free")'
    content = review_csv([row("=id", "keep", f"{start}1", evil)])
    cells = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))[1]
    texts = [cell for name, cell in zip(COLUMNS, cells, strict=True) if name != "engagement"]
    assert not any(cell.startswith(FORMULA) for cell in texts)
    assert cells[4] == "-1.5"  # a number, and no text
    assert read(tmp_path / "review.csv", content)["=id"].note == f"{start}1".strip()


@pytest.mark.parametrize(
    "content",
    [
        '\ufeffrecord_id,decision,note\r\na,keep,"good, although short"\r\nb,drop,\r\nc,,\r\n',
        "record_id;decision;note;reason\na;KEEP ;good, although short;kept\nb;Drop;;\n;;;\n",
        "\ufeffrecord_id\tdecision\tnote\r\na\tkeep\tgood, although short\r\nb\tdrop\r\n",
        'record_id,decision,note,,\na,keep,"good, although short",,\nb,drop,,,\n,,,,\n',
        'Decision,Note,Record_ID\nkeep,"good, although short",a\ndrop,,b\n',
    ],
)
def test_reviews_saved_by_spreadsheets_are_read(tmp_path: Path, content: str) -> None:
    found = read(tmp_path / "review.csv", content)
    expected = {"a": ("keep", "good, although short"), "b": ("drop", "")}
    assert {name: (r.decision, r.note) for name, r in found.items()} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("record_id,decision\na,maybe\n", r"review\.csv:2: decision 'maybe' .*'a' .*keep, drop"),
        ("record_id,decision\na,keep\na,drop\n", r"review\.csv:3: record_id 'a' .*review\.csv:2"),
        ("record_id,decision\n,keep\n", r"review\.csv:2: record_id "),
        ("record_id,note\na,x\n", r"review\.csv: .*'decision'"),
        ("record_id,decision,colour\na,keep,red\n", r"review\.csv: .*'colour'"),
        ("record_id,decision,decision\na,keep,drop\n", r"review\.csv: .*'decision' twice"),
        ("record_id,decision\na,keep,more\n", r"review\.csv:2: 3 cells .* 2;"),
        ("", r"review\.csv: empty"),
        (b"record_id,decision\n\xff,keep\n", r"review\.csv: .*UTF-8"),
    ],
)
def test_review_file_that_is_broken_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "review.csv", content)


def test_review_of_unknown_record_is_refused_unless_empty(tmp_path: Path) -> None:
    reviews = read(tmp_path / "review.csv", "record_id,decision,note\ngone,,\n1.2E+17,keep,\na,drop,\n")
    with pytest.raises(
        DataError, match=r"review\.csv:3: record_id '1\.2E\+17' is not a record .*spreadsheet"
    ):
        check_known(reviews, {"a"})
    check_known(reviews, {"a", "1.2E+17"})
    with pytest.raises(DataError, match=r"absent\.csv: .*review\.csv"):
        read_reviews(tmp_path / "absent.csv")
