"""The words of a text, its links and mentions: what "the same text" and "a clean text" are made of.

Pure. Called by the tasks without a verifier and by curation.
"""

from __future__ import annotations

import re
from functools import lru_cache

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
LINK = re.compile(r"https?://|www\.\S|\b[\w-]{1,63}\.(?:com|net|org|io|ly|co)/\S", re.IGNORECASE)
MENTION = re.compile(r"(?<![\w.])@\w+")


@lru_cache(maxsize=4096)
def words_of(text: str) -> tuple[str, ...]:
    """Words in lower case: letters and digits of any script, with apostrophes inside."""
    return tuple(match.replace("\u2019", "'") for match in WORD.findall(text.lower()))


def canonical_text(text: str) -> str:
    """The words in lower case: case, punctuation and white space make no different answer."""
    return " ".join(words_of(text))


def first_words(text: str, max_words: int) -> str:
    """The first `max_words` words with the white space between them; what is cut ends in [...]."""
    words = list(re.finditer(r"\S+", text))
    return text if len(words) <= max_words else f"{text[: words[max_words - 1].end()]} [...]"
