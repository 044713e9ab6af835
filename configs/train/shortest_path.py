"""A completion is right iff it is one of the board's shortest paths; each path is a class of its own."""


def score(items):
    results = []
    for item in items:
        right = item["metadata"]["right"]
        path = item["completion"]
        results.append(
            {"score": 1.0, "class": right.index(path)} if path in right else {"score": 0.0, "class": -1}
        )
    return results
