"""The check of `make check` on docstrings and test names."""

from __future__ import annotations

from tests.words import complaints

SOURCE = '''"""Whose module this is."""

def test_they_come_back(): ...

async def fetch():
    """Of all answers the first."""

class Answer:
    """An answer. What it says is elsewhere."""
'''


def test_clauses_and_pronouns_are_refused_by_line() -> None:
    assert [line.split(": ")[0] for line in complaints(SOURCE, "a.py")] == ["a.py:1", "a.py:3", "a.py:5"]


def test_plain_sources_pass() -> None:
    plain = '"""Answers by name."""\n\ndef test_items_keep_their_order(): ...\n'
    assert list(complaints(plain, "a.py")) == []
