"""Walks over U, D, L, R that come back to their start after exactly `reference` moves.

An item has `prompt`, `completion`, `reference`, `metadata` and `messages`. A score is a number in [0, 1], or a
dictionary whose `class` says which completions count as the same solution, or None where it could not be computed.
"""


def score(items):
    return [judge(item["completion"], int(item["reference"])) for item in items]


def judge(walk, num_moves):
    right = walk.count("R") - walk.count("L")
    up = walk.count("U") - walk.count("D")
    other = sum(letter not in "UDLR" for letter in walk)
    error = abs(right) + abs(up) + abs(len(walk) - num_moves) + other
    if error == 0:
        return {"score": 1.0, "class": walk}
    return {"score": 0.5 / (1 + error), "class": -1}
