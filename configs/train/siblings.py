"""Sibling discovery: a completion is right iff it names two children of one parent, and then the parent.

A graph of 10 parents with 6 children each, which only the warm start's demonstrations tell of: 150 pairs of siblings,
and each is a class of its own. Prompts are random numbers: nothing in them says which pair is wanted. After Nagarajan
et al. 2025, arXiv 2504.15266, where pairs of the demonstrations do not count.
"""

import random
from itertools import combinations

PARENTS = "0123456789"
CHILDREN = 6
_names = [letter + digit for letter in "abcdefgh" for digit in "0123456789"]
random.Random(0).shuffle(_names)
SIBLINGS = {}
for _at, _parent in enumerate(PARENTS):
    for _pair in combinations(sorted(_names[_at * CHILDREN :][:CHILDREN]), 2):
        SIBLINGS[_pair] = len(SIBLINGS), _parent


def written(first, second, parent):
    return f"{first}{second}|{parent}"


def score(items):
    results = []
    for item in items:
        text = item["completion"]
        first, second = text[:2], text[2:4]
        number, parent = SIBLINGS.get((min(first, second), max(first, second)), (-1, ""))
        right = number >= 0 and text == written(first, second, parent)
        results.append({"score": 1.0, "class": number} if right else {"score": 0.0, "class": -1})
    return results
