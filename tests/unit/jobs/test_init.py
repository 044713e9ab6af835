"""`polyray init` writes files that fit together and overwrites none."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.init import FILES, TEMPLATES, main
from polyray.config.loader import load_config
from polyray.config.paths import relative_to
from polyray.config.run import TrainConfig
from polyray.config.task import JsonlSpec
from polyray.errors import ConfigError
from polyray.tasks import build_task

EMBEDDED_CHARACTERS = "0123456789|abcdefgh>=UDLR"
WRONG = -1


def score(template: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return runpy.run_path(str(TEMPLATES / template / "reward.py"))["score"]


@pytest.mark.parametrize(
    ("options", "template"), [([], "embedded"), (["--embedded"], "embedded"), (["--text"], "text")]
)
def test_init_writes_the_files_and_prints_the_commands(
    options: list[str], template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "new" / "my task"
    assert main([str(directory), *options]) == 0
    assert {file.name: file.read_text() for file in directory.iterdir()} == {
        name: (TEMPLATES / template / name).read_text() for name in FILES
    }
    pretrain = ["  polyray pretrain configs/pretrain.yaml"] if template == "embedded" else []
    assert capsys.readouterr().out.partition("next\n")[2].splitlines() == [
        f"  cd '{directory}'",
        *pretrain,
        "  polyray train train.yaml --check",
        "  polyray train train.yaml",
        "  polyray report runs/my-task",
    ]


@pytest.mark.parametrize("name", FILES)
def test_init_never_overwrites(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=name):
        main([str(tmp_path)])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_init_refuses_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="/file "):
        main([str(tmp_path / "file")])


def test_init_takes_one_kind_of_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--text"):
        main([str(tmp_path), "--embedded", "--text"])


@pytest.mark.parametrize("template", ["embedded", "text"])
def test_files_of_a_template_name_each_other(template: str) -> None:
    directory = TEMPLATES / template
    with relative_to(str(directory)):
        config = load_config(TrainConfig, directory / "train.yaml")
    assert isinstance(config.task, JsonlSpec)
    assert config.task.path == str(directory / "prompts.jsonl")
    assert config.reward.model_dump()["path"] == f"{directory / 'reward.py'}:score"
    task = build_task(config.task)
    assert len(task.held_out_prompts()) >= 1
    assert all(str(prompt.reference).isdigit() for prompt in task.held_out_prompts())


def test_prompts_of_the_embedded_template_fit_its_model_and_sizes() -> None:
    with relative_to(str(TEMPLATES / "embedded")):
        config = load_config(TrainConfig, TEMPLATES / "embedded" / "train.yaml")
    prompts = [build_task(config.task).training_prompt(index, 0) for index in range(16)]
    for prompt in prompts:
        assert set(prompt.text) <= set(EMBEDDED_CHARACTERS)
        assert len(prompt.text) + 1 <= config.rollout.max_prompt_tokens
        assert int(str(prompt.reference)) + 1 <= config.rollout.max_completion_tokens


@pytest.mark.parametrize(
    ("walk", "answer"),
    [
        ("UD", {"score": 1.0, "class": "UD"}),
        ("LR", {"score": 1.0, "class": "LR"}),
        ("UU", {"score": 0.5 / 3, "class": WRONG}),
        ("", {"score": 0.5 / 3, "class": WRONG}),
        ("U|", {"score": 0.5 / 3, "class": WRONG}),
        ("UDLR", {"score": 0.5 / 3, "class": WRONG}),
    ],
)
def test_reward_of_the_embedded_template(walk: str, answer: dict[str, object]) -> None:
    assert score("embedded")([{"completion": walk, "reference": "2"}]) == [answer]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" 3 * 4 \n", {"score": 1.0, "class": "3*4"}),
        ("2*8-4 = 12", {"score": 1.0, "class": "2*8-4"}),
        ("3*5", {"score": 0.1, "class": WRONG}),
        ("12", {"score": 0.1, "class": WRONG}),
        ("24/2", {"score": 0.0, "class": WRONG}),
        ("9**9**9", {"score": 0.0, "class": WRONG}),
        ("The answer is 3*4.", {"score": 0.0, "class": WRONG}),
        ("", {"score": 0.0, "class": WRONG}),
        ("\0", {"score": 0.0, "class": WRONG}),
        ("(" * 500, {"score": 0.0, "class": WRONG}),
    ],
)
def test_reward_of_the_text_template(completion: str, answer: dict[str, object]) -> None:
    assert score("text")([{"completion": completion, "reference": "12"}]) == [answer]
