"""Social replies: exports of the user's own and Stack Exchange threads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from polyray.data.social import read_export
from polyray.data.stack_exchange import read_threads
from polyray.errors import DataError

ROW = {"prompt": "Up early?", "reply": "The cat is.", "engagement": 12}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_csv_export_is_read(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text(
        "\ufeffprompt,reply,likes,impressions,created_at,author_hash\r\n"
        '"Up early, anyone?","The ""cat"",\r\nas ever.",12,340,2026-03-01T12:30:00Z,ab12\r\n'
        "\r\n"
        '"Up early, anyone?",No.,0.5,,,\r\n',
        encoding="utf-8",
    )
    first, second = read_export(path)
    assert first.reply == 'The "cat",\r\nas ever.'
    assert (first.engagement, first.likes, first.impressions) == (12.0, 12.0, 340)
    assert (first.created_at, first.author_hash) == ("2026-03-01T12:30:00Z", "ab12")
    assert (second.engagement, second.impressions) == (0.5, None)
    assert second.created_at is second.author_hash is None
    assert first.thread_id == second.thread_id == first.parent_id


def test_jsonl_and_csv_exports_give_equal_records(tmp_path: Path) -> None:
    rows = [{**ROW, "thread_id": "t1", "url": "https://x/1", "licence": "CC0"}, ROW]
    as_csv = tmp_path / "export.csv"
    as_csv.write_text(
        "prompt,reply,engagement,thread_id,url,licence\n"
        "Up early?,The cat is.,12,t1,https://x/1,CC0\nUp early?,The cat is.,12,,,\n"
    )
    packed = tmp_path / "export.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    assert read_export(as_csv) == read_export(packed) == read_export(write(tmp_path / "e.jsonl", *rows))
    assert read_export(as_csv)[0].url == "https://x/1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "reply": "r"}, r":2: neither 'engagement' nor 'likes'"),
        ({**ROW, "likes": 3}, r":2: both .*'engagement'.*'likes'"),
        ({**ROW, "engagement": "many"}, r":2: 'engagement' .*'many'"),
        ({**ROW, "engagement": float("nan")}, r":2: 'engagement' .*\bnan\b"),
        ({**ROW, "engagement": True}, r":2: 'engagement' .*\bTrue\b"),
        ({**ROW, "reply": "  "}, r":2: 'reply' .*empty"),
        ({**ROW, "prompt": 7}, r":2: 'prompt' .*\b7\b.*\bint\b"),
        ({**ROW, "impressions": 1.5}, r":2: 'impressions' .*\b1\.5\b"),
        ({**ROW, "impressions": -1}, r":2: 'impressions' .*-1\b"),
        ({**ROW, "created_at": "yesterday"}, r":2: 'created_at' .*'yesterday'.*ISO 8601"),
        ({**ROW, "author": "Jo"}, r":2: .*'author'.*prompt, reply"),
    ],
)
def test_broken_row_of_an_export_is_named(tmp_path: Path, row: dict, message: str) -> None:
    path = write(tmp_path / "export.jsonl", ROW, row)
    with pytest.raises(DataError, match=rf"export\.jsonl{message}"):
        read_export(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows"),
        (b"prompt,reply,likes\n", "no rows"),
        (b"prompt,prompt,likes\na,b,1\n", "'prompt'"),
        (b"prompt,reply,likes\na,b,1\na,b\n", r":3.*\b2\b.*\b3\b"),
        (b'prompt,reply,likes\na,"b" c,1\n', ":2:.*CSV"),
        (b"prompt,reply,likes\na,\xff,1\n", "UTF-8"),
        (b"prompt,reply,likes\na,b,\n", ":2.*'engagement'.*'likes'"),
    ],
)
def test_broken_csv_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_export(path)


THREAD = {
    "id": "q1",
    "title": "Sources?",
    "text": "Must answers cite?",
    "url": "https://s/q/1",
    "license": "CC BY-SA 3.0",
    "replies": [
        {
            "id": "a2",
            "kind": "answer",
            "parent": "q1",
            "text": "Yes.",
            "score": 26,
            "license": "CC BY-SA 4.0",
        },
        {"id": "c3", "kind": "comment", "parent": "a2", "text": "Why?", "score": -1},
    ],
}


def test_threads_become_replies_with_prompts(tmp_path: Path) -> None:
    threads = read_threads(write(tmp_path / "t.jsonl", THREAD, {**THREAD, "id": "q9", "replies": []}))
    answer, comment = threads.replies
    assert threads.num_threads == 2
    assert (answer.prompt, answer.reply) == ("Sources?\n\nMust answers cite?", "Yes.")
    assert answer.engagement == 26.0
    assert (comment.prompt, comment.parent_id, comment.engagement) == ("Sources?\n\nYes.", "a2", -1.0)
    assert (answer.licence, comment.licence) == ("CC BY-SA 4.0", "CC BY-SA 3.0")
    assert answer.thread_id == comment.thread_id == "q1"
    assert answer.url == "https://s/q/1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": "q7"}, r":1, replies\[1\]: 'parent' .*'q7'"),
        ({"kind": "shout"}, r":1, replies\[1\]: 'kind' .*'shout'.*answer, comment"),
        ({"score": None}, r":1, replies\[1\]: .*'score'"),
        ({"user": "Jo"}, r":1, replies\[1\]: .*'user'"),
    ],
)
def test_broken_or_repeated_thread_is_named(tmp_path: Path, change: dict, message: str) -> None:
    replies = [THREAD["replies"][0], {**THREAD["replies"][1], **change}]  # pyright: ignore
    with pytest.raises(DataError, match=message):
        read_threads(write(tmp_path / "t.jsonl", {**THREAD, "replies": replies}))
    with pytest.raises(DataError, match=r"t\.jsonl:2.*'q1'.*\b1\b"):
        read_threads(write(tmp_path / "t.jsonl", THREAD, THREAD))
