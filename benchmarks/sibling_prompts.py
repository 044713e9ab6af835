"""Writes configs/sft/siblings.jsonl and configs/train/siblings.jsonl: sibling discovery for the embedded model.

    python -m benchmarks.sibling_prompts

The graph and the answers are those of configs/train/siblings.py. A prompt is a random number that stands for nothing.
Each demonstration has one of the pairs, in a random order.
"""

from __future__ import annotations

import json
import random
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NUM_DEMONSTRATIONS, NUM_PROMPTS, SEED = 3000, 1000, 1


def demonstrations_and_prompts() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Lines of both files; no prompt occurs twice."""
    graph = runpy.run_path(str(CONFIGS / "train" / "siblings.py"))
    draw = random.Random(SEED)
    prompts = [f"{number:04d}=" for number in draw.sample(range(10_000), NUM_DEMONSTRATIONS + NUM_PROMPTS)]
    siblings = list(graph["SIBLINGS"].items())
    demonstrations = []
    for at in range(NUM_DEMONSTRATIONS):
        pair, (_, parent) = siblings[at % len(siblings)]
        answer = graph["written"](*draw.sample(pair, 2), parent)
        demonstrations.append({"id": f"siblings-{at}", "prompt": prompts[at], "response": answer})
    return demonstrations, [
        {"id": f"siblings-{at}", "prompt": prompts[at]} for at in range(NUM_DEMONSTRATIONS, len(prompts))
    ]


def _write(file: Path, lines: Iterable[Mapping[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    print(file)


if __name__ == "__main__":
    shown, asked = demonstrations_and_prompts()
    _write(CONFIGS / "sft" / "siblings.jsonl", shown)
    _write(CONFIGS / "train" / "siblings.jsonl", asked)
