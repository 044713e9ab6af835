"""The README's "Your own task": its three files fit together and say what the text says they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyray.config.loader import load_config
from polyray.config.run import TrainConfig

ROOT = Path(__file__).resolve().parents[3]
EMBEDDED_CHARACTERS = "0123456789|abcdefgh>=UDLR"


def block(header: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"```{re.escape(header)}\n(.*?)```", readme, re.DOTALL)
    assert found is not None, header
    return found.group(1)


def test_the_file_under_configs_is_the_one_shown() -> None:
    file = (ROOT / "configs/train/my_task.yaml").read_text(encoding="utf-8")
    assert [line for line in file.splitlines() if not line.startswith("#")] == block(
        "yaml my_task.yaml"
    ).splitlines()


def test_prompts_fit_the_embedded_model_and_the_configuration() -> None:
    config = load_config(TrainConfig, ROOT / "configs/train/my_task.yaml")
    rows = [json.loads(line) for line in block("json my_prompts.jsonl").splitlines()]
    assert len(rows) == 20
    for row in rows:
        assert set(row["prompt"]) <= set(EMBEDDED_CHARACTERS)
        assert (
            f"embedded model reads single characters of `{EMBEDDED_CHARACTERS}`"
            in (ROOT / "README.md").read_text()
        )
        assert len(row["prompt"]) + 1 <= config.rollout.max_prompt_tokens
        assert int(row["reference"]) + 1 <= config.rollout.max_completion_tokens


@pytest.mark.parametrize(
    ("walk", "answer"),
    [
        ("UD", {"score": 1.0, "class": "UD"}),
        ("LR", {"score": 1.0, "class": "LR"}),
        ("UU", {"score": 0.5 / 3, "class": -1}),
        ("", {"score": 0.5 / 3, "class": -1}),
        ("U|", {"score": 0.5 / 3, "class": -1}),
        ("UDLR", {"score": 0.5 / 3, "class": -1}),
    ],
)
def test_the_reward_does_what_it_says(walk: str, answer: dict[str, object]) -> None:
    names: dict[str, object] = {}
    exec(block("python my_reward.py"), names)
    score = names["score"]
    assert callable(score)
    assert score([{"completion": walk, "reference": "2"}]) == [answer]
