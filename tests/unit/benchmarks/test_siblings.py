"""Prompts of the sibling study: the files are those that the script makes, and the reward knows the graph."""

from __future__ import annotations

import json
import runpy
from collections import Counter

from benchmarks.sibling_prompts import CONFIGS, demonstrations_and_prompts

GRAPH = runpy.run_path(str(CONFIGS / "train" / "siblings.py"))


def test_files_are_those_of_the_script() -> None:
    for name, lines in zip(("sft", "train"), demonstrations_and_prompts(), strict=True):
        text = (CONFIGS / name / "siblings.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == lines


def test_each_child_has_one_parent() -> None:
    families: dict[str, set[str]] = {}
    for pair, (_, parent) in GRAPH["SIBLINGS"].items():
        families.setdefault(parent, set()).update(pair)
    assert [len(children) for children in families.values()] == [6] * 10
    assert len(set.union(*families.values())) == 60
    assert [number for number, _ in GRAPH["SIBLINGS"].values()] == list(range(150))


def test_demonstrations_are_right_and_have_every_pair_equally_often() -> None:
    demonstrations, prompts = demonstrations_and_prompts()
    scores = GRAPH["score"]([{"completion": line["response"]} for line in demonstrations])
    assert Counter(score["class"] for score in scores) == dict.fromkeys(range(150), 20)
    assert all(score["score"] == 1.0 for score in scores)
    texts = [line["prompt"] for line in (*demonstrations, *prompts)]
    assert len(texts) == len(set(texts)) == 4000


def test_reward_wants_two_siblings_and_their_parent() -> None:
    (first, second), (number, parent) = next(iter(GRAPH["SIBLINGS"].items()))
    stranger = next(pair[0] for pair, (_, other) in GRAPH["SIBLINGS"].items() if other != parent)
    right = [f"{first}{second}|{parent}", f"{second}{first}|{parent}"]
    wrong = [
        f"{first}{first}|{parent}",
        f"{first}{stranger}|{parent}",
        f"{first}{second}|{(int(parent) + 1) % 10}",
        f"{first}{second}|{parent}|",
        f"{first}{second}",
        "",
    ]
    found = GRAPH["score"]([{"completion": text} for text in (*right, *wrong)])
    assert found == [{"score": 1.0, "class": number}] * 2 + [{"score": 0.0, "class": -1}] * 6
