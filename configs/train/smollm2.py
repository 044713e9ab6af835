"""One sentence of at most 12 words that contains all words of `reference`.

Two sentences are the same class if they share their other content words, so a prompt has many right answers.
`score_more_than_a_list` is for configs/train/three_words.yaml.
"""

import re

LONGEST = 12
FUNCTION_WORDS = frozenset(
    ("a", "an", "and", "are", "at", "but", "by", "from", "in", "is", "its", "of", "on", "the", "was")
)


def score(items):
    return [judge(item["completion"].strip(), item["reference"].split()) for item in items]


def score_more_than_a_list(items):
    """`score`, but "The boat and the moon." fails: a sentence has a content word that was not given."""
    return [found if found["class"] != "" else {"score": 0.5, "class": -1} for found in score(items)]


def judge(text, wanted):
    words = re.findall(r"[a-z']+", text.lower())
    share = sum(word in words for word in wanted) / len(wanted)
    one_sentence = re.fullmatch(r"[A-Z][^.!?\n]*[.!?]", text) is not None
    if share < 1 or not one_sentence or len(words) > LONGEST:
        return {"score": 0.4 * share + 0.1 * one_sentence, "class": -1}
    return {"score": 1.0, "class": " ".join(sorted(set(words) - FUNCTION_WORDS - set(wanted)))}
