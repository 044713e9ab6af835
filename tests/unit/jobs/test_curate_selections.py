"""`polyray curate selections` from a database to files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.curate import main
from polyray.data.selections import SelectionStore
from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.engagement import read_records
from tests.unit.data.selections.builders import candidates_record


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """30 sets of policy-v17, one a day, 24 of them answered; 6 sets of base."""
    path = tmp_path / "selections.db"
    store = SelectionStore(str(path))
    for place in range(36):
        model = "policy-v17" if place < 30 else "base"
        record = candidates_record(
            f"c{place}",
            ["left", "right", "back"],
            [0.2, 0.5, 0.8] if place % 2 == 0 else None,
            prompt=f"Which way, {place % 10}?",
            created=1767225600.0 + 86_400 * place,
            model=model,
            selected_index=1,
        )
        store.add_candidates(record)
        if place < 24:
            index = None if place % 4 == 3 else place % 3
            edited = f"to the {place}" if place % 4 == 2 or place % 8 == 7 else None
            store.add_selection(record.id, owner="ann", selected_index=0, client_key=f"first-{place}")
            store.add_selection(record.id, owner="ann", selected_index=index, edited_text=edited)
    store.close()
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_selections_become_pairs_demonstrations_and_measures(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picked"
    assert main(["selections", str(database), "--out", str(out), "--resamples", "200"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["pairs.jsonl", "selections.json", "sft.jsonl"]
    report = json.loads((out / "selections.json").read_text())
    pairs, demonstrations = rows(out / "pairs.jsonl"), rows(out / "sft.jsonl")
    expected = {"sets": 36, "selections": 24, "picked": 18, "edited": 6, "none": 3, "written_instead": 3}
    assert {name: report[name] for name in expected} == expected
    assert report["pairs"] == len(pairs) == 12 * 2 + (6 + 3) * 3
    assert report["demonstrations"] == len(demonstrations) == 21
    assert report["left_out"] == {"not picked yet": 12, "none of them was good enough": 3}
    assert [pair["metadata"]["candidates_id"] for pair in pairs[:3]] == ["c0", "c0", "c1"]
    assert len(read_records(out / "pairs.jsonl")) == len(pairs)
    (entry,) = report["measured"]
    assert (entry["model"], entry["k"], entry["scored"], entry["unscored"]) == ("policy-v17", 3, 12, 6)
    quality = [0.2, 0.5, 0.8]
    by_hand = [quality[place % 3] for place in range(0, 24, 2)]
    assert entry["usq"]["measured"]["value"] == pytest.approx(sum(by_hand) / 12)
    assert entry["usq"]["selected"]["value"] == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert re.search(r"36 sets, 24 .*18 .*\(6 .*\), 3 .*, 3 ", printed)
    assert re.search(r"left out +12 ", printed)
    assert f"policy-v17  3  12      {entry['usq']['measured']['value']:.3f} [" in printed


def test_selections_are_filtered_by_model_time_and_candidates(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "picked"
    url = f"sqlite:///{database}"
    since = ["--since", "2026-01-21T00:00:00Z"]  # the 21st day: place 20 and later
    assert main(["selections", url, "--out", str(out), "--model", "policy-v17", *since]) == 0
    ids = {row["metadata"]["candidates_id"] for row in rows(out / "pairs.jsonl")}
    assert ids == {f"c{place}" for place in range(20, 24)}
    report = json.loads((out / "selections.json").read_text())
    assert (report["sets"], report["model"], report["since"]) == (10, "policy-v17", "2026-01-21T00:00:00Z")
    assert main(["selections", url, "--out", str(out), "--model", "base"]) == 0
    assert (out / "pairs.jsonl").read_text() == ""
    assert json.loads((out / "selections.json").read_text())["measured"] == []
    assert main(["selections", url, "--out", str(out), "--min-candidates", "4"]) == 0
    report = json.loads((out / "selections.json").read_text())
    assert report["left_out"] == {"not picked yet": 12, "too few candidates were shown": 24}
    assert report["measured"][0]["selections"] == 24


def test_selections_are_read_while_a_service_writes(database: Path, tmp_path: Path) -> None:
    store = SelectionStore(str(database))
    with store._database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM selections WHERE candidates_id = 'c0'")
        assert main(["selections", str(database), "--out", str(tmp_path / "a"), "--resamples", "10"]) == 0
    assert main(["selections", str(database), "--out", str(tmp_path / "b"), "--resamples", "10"]) == 0
    store.close()
    numbers = [json.loads((tmp_path / name / "selections.json").read_text())["selections"] for name in "ab"]
    assert numbers == [24, 23]


def test_check_counts_without_files(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["selections", str(database), "--check"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["database"] == str(database)
    assert (checked["job"], checked["pairs"], checked["demonstrations"]) == ("curate selections", 51, 21)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DATABASE"),
        (["DB"], "--out .*--check"),
        (["DB", "--check", "--since", "yesterday"], "--since 'yesterday' .*ISO 8601"),
        (["DB", "--check", "--min-candidates", "0"], "--min-candidates 0 .*1"),
        (["DB", "--check", "--resamples", "0"], "--resamples 0 .*1"),
        (["DB", "--chek"], "did you mean --check"),
        (["DB", "--check", "--model", "policy-v18"], "policy-v18.* base, policy-v17"),
        (["nodb://x", "--check"], r"nodb://\.\.\. "),
        (["absent/selections.db", "--out", "absent"], r"absent/selections\.db: .*`database`"),
        (["DB", "--out", "DB/below", "--resamples", "10"], r"selections\.db/below.*--out"),
    ],
)
def test_mistake_on_the_command_line_is_named(database: Path, arguments: list[str], message: str) -> None:
    given = [argument.replace("DB", str(database)) for argument in arguments]
    with pytest.raises((ConfigError, DataError), match=message):
        main(["selections", *given])
    assert not Path("absent").exists()
