"""Short commands without Ray: report, serve, train_reward, init."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from polyray.cli import init, report, serve, train_reward
from polyray.cli.serve_reward import _announcement
from polyray.config.loader import load_config
from polyray.config.paths import SHIPPED_ROOT, relative_to
from polyray.config.run import TrainConfig
from polyray.config.task import JsonlSpec
from polyray.errors import ConfigError, DataError, MissingFile
from polyray.tasks import build_task
from tests.conftest import REPOSITORY_ROOT

EMBEDDED_CHARACTERS = "0123456789|abcdefgh>=UDLR"
WRONG = -1
REWARD = str(SHIPPED_ROOT / "configs/serve/reward.yaml")


def test_report_writes_the_page_beside_the_run_and_check_lists_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "config.json").write_text('{"algorithm": {"type": "grpo"}}')
    (run / "metrics.jsonl").write_text('{"step": 0, "reward_mean": 0.5, "step_s": 1.0}\n')
    assert report.main([str(run), "--check", "--out", "x.html"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "job": "report", "out": "x.html", "training_runs": {str(run): 1}, "evaluations": {},
    }  # fmt: skip
    assert not (run / "report.html").exists()
    assert report.main([str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out and (run / "report.html").is_file()
    assert report.default_out([str(run), str(tmp_path / "b")]) == tmp_path.resolve() / "report.html"


def test_report_names_an_empty_directory_and_a_misspelt_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        report.main([str(tmp_path)])
    with pytest.raises(ConfigError, match="--ot; did you mean --out"):
        report.main([str(tmp_path), "--ot", "x"])


def test_check_of_a_reward_service_derives_sizes_and_names_a_missing_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert serve.main([REWARD, "--check", "reward.service.num_replicas=3"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert (derived["models"], derived["replicas"], derived["logical_cpus_needed"]) == (["reward"], 3, 3.0)
    with pytest.raises(MissingFile, match=r"not_there\.py"):
        serve.main([REWARD, "--check", "reward.type=python", "reward.path=not_there.py:score"])


@pytest.mark.parametrize(
    ("host", "has_token", "warned"),
    [("127.0.0.1", False, False), ("0.0.0.0", True, False), ("0.0.0.0", False, True)],
)
def test_announcement_warns_of_an_open_address_without_a_token(
    host: str, has_token: bool, warned: bool
) -> None:
    text = _announcement("http://h:1/serve/reward", host, has_token)
    assert (f"WARNING: {host} " in text) == warned
    assert ('-H "Authorization: Bearer $POLYRAY_API_TOKEN"' in text) == has_token
    assert "curl http://h:1/serve/reward/v1/score" in text


@pytest.mark.parametrize(
    ("config", "overrides", "expected"),
    [
        ("my_pairs", ["epochs=4", "rows_per_step=4"], {"train_pairs": 6, "validation_pairs": 2, "steps": 6}),
        ("replies", [], {}),
    ],
)
def test_check_of_reward_model_training_counts_pairs(
    config: str, overrides: list[str], expected: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train_reward.main([str(REPOSITORY_ROOT / f"configs/reward/{config}.yaml"), "--check", *overrides])
        == 0
    )
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert expected.items() <= derived.items() and derived["train_pairs"] > derived["validation_pairs"] > 0


def test_reward_model_training_names_missing_data_and_leaves_the_name_free(tmp_path: Path) -> None:
    path = str(REPOSITORY_ROOT / "configs/reward/reward_train.yaml")
    with pytest.raises(DataError, match=r"absent\.jsonl: .*data\.path"):
        train_reward.main([path, "--check", f"data.path={tmp_path / 'absent.jsonl'}"])
    with pytest.raises(DataError, match=r"nowhere: .*polyray curate data"):
        train_reward.main([path, f"data.path={tmp_path}/nowhere", f"runs_dir={tmp_path}/runs"])
    with pytest.raises(ConfigError, match="nowhere"):
        my_pairs = str(REPOSITORY_ROOT / "configs/reward/my_pairs.yaml")
        train_reward.main([my_pairs, "--check", f"encoder.name={tmp_path}/nowhere"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "template"), [([], "embedded"), (["--embedded"], "embedded"), (["--text"], "text")]
)
def test_init_writes_the_files_and_prints_the_commands(
    options: list[str], template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "new" / "my task"
    assert init.main([str(directory), *options]) == 0
    assert {file.name: file.read_text() for file in directory.iterdir()} == {
        name: (init.TEMPLATES / template / name).read_text() for name in init.FILES
    }
    lines = capsys.readouterr().out.partition("next\n")[2].splitlines()
    assert lines[0] == f"  cd '{directory}'" and lines[-1] == "  polyray report runs/my-task"
    assert any("polyray pretrain" in line for line in lines) == (template == "embedded")


@pytest.mark.parametrize("name", init.FILES)
def test_init_never_overwrites(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    for directory in (tmp_path, tmp_path / name):
        with pytest.raises(ConfigError, match=name):
            init.main([str(directory)])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="--text"):
        init.main([str(tmp_path), "--embedded", "--text"])


@pytest.mark.parametrize("template", ["embedded", "text"])
def test_files_of_a_template_fit_together(template: str) -> None:
    directory = init.TEMPLATES / template
    with relative_to(str(directory)):
        config = load_config(TrainConfig, directory / "train.yaml")
    assert isinstance(config.task, JsonlSpec) and config.task.path == str(directory / "prompts.jsonl")
    assert config.reward.model_dump()["path"] == f"{directory / 'reward.py'}:score"
    task = build_task(config.task)
    assert all(str(prompt.reference).isdigit() for prompt in task.held_out_prompts())
    if template == "embedded":
        for prompt in [task.training_prompt(index, 0) for index in range(16)]:
            assert set(prompt.text) <= set(EMBEDDED_CHARACTERS)
            assert len(prompt.text) + 1 <= config.rollout.max_prompt_tokens
            assert int(str(prompt.reference)) + 1 <= config.rollout.max_completion_tokens


@pytest.mark.parametrize(
    ("template", "reference", "completion", "score", "solution"),
    [
        *(("embedded", "2", walk, 1.0, walk) for walk in ("UD", "LR")),
        *(("embedded", "2", walk, 0.5 / 3, WRONG) for walk in ("UU", "", "U|", "UDLR")),
        ("text", "12", " 3 * 4 \n", 1.0, "3*4"),
        ("text", "12", "2*8-4 = 12", 1.0, "2*8-4"),
        *(("text", "12", text, 0.1, WRONG) for text in ("3*5", "12")),
        *(("text", "12", text, 0.0, WRONG)
          for text in ("24/2", "9**9**9", "The answer is 3*4.", "", "\0", "(" * 500)),
    ],
)  # fmt: skip
def test_reward_of_a_template(
    template: str, reference: str, completion: str, score: float, solution: str | int
) -> None:
    reward = runpy.run_path(str(init.TEMPLATES / template / "reward.py"))["score"]
    items = [{"completion": completion, "reference": reference}]
    assert reward(items) == [{"score": score, "class": solution}]
