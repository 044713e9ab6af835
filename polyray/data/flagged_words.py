"""Lists of flagged words and phrases: the user's own, or a small one that ships with polyray.

One word or phrase a line; `#` begins a comment line. Whole words count, in any case; a list knows no context, so
look at what it dropped in the report. Called by filters.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polyray.data.sources import BUILTIN
from polyray.data.words import canonical_text
from polyray.errors import DataError, MissingFile

_BUILTIN_FILE = Path(__file__).parent / "builtin" / "flagged_words.txt"


@dataclass(frozen=True, slots=True)
class FlaggedWords:
    """Words and phrases of a list.

    Example:
        FlaggedWords(words=frozenset({"moron"}), phrases=("shut up",)).found_in("Oh, SHUT up!")  # "shut up"
    """

    words: frozenset[str]
    phrases: tuple[str, ...]
    """Phrases of two words or more, in canonical form."""

    def found_in(self, text: str) -> str:
        """The first flagged word or phrase of a text by the alphabet, words first; "" where there is none."""
        canonical = canonical_text(text)
        words = self.words.intersection(canonical.split())
        if words:
            return min(words)
        padded = f" {canonical} "
        return next((phrase for phrase in self.phrases if f" {phrase} " in padded), "")


def read_flagged_words(path: str) -> FlaggedWords:
    """Reads a list; `path` builtin is polyray's own. Raises DataError naming file and line."""
    file = flagged_words_path(path)
    if not file.is_file():
        raise MissingFile(
            f"{file}: no such file; set filters.flagged_words to a text file with one word or phrase a line, or to "
            f"{BUILTIN!r}"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save the file as UTF-8") from None
    entries: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = canonical_text(line)
        if not entry:
            raise DataError(
                f"{file}:{number}: {line.strip()!r} holds no word; write letters or digits, or remove it"
            )
        entries.add(entry)
    if not entries:
        raise DataError(f"{file}: no word in it; add some, or set filters.flagged_words to null")
    phrases = tuple(sorted(entry for entry in entries if " " in entry))
    return FlaggedWords(frozenset(entry for entry in entries if " " not in entry), phrases)


def flagged_words_path(path: str) -> Path:
    """The file behind filters.flagged_words."""
    return _BUILTIN_FILE if path == BUILTIN else Path(path)
