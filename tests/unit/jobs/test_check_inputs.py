"""`--check` looks at every input that is on this machine, with the code of the start, and starts nothing."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.errors import ConfigError, DataError, MissingFile
from tests.conftest import REPOSITORY_ROOT
from tests.unit.tiny_policy import save_base

PROMPTS = "".join(f'{{"prompt": "{number}|2=", "reference": "2"}}\n' for number in range(10, 30))
REWARD = "def score(items):\n    return [0.5 for _ in items]\n"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command's directory, with a base model, prompts and a reward."""
    save_base(tmp_path / "base")
    (tmp_path / "prompts.jsonl").write_text(PROMPTS)
    (tmp_path / "mine.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN: dict[str, Any] = {
    "name": "a",
    "model": {"path": "base"},
    "task": {"type": "jsonl", "path": "prompts.jsonl"},
    "reward": {"type": "python", "path": "mine.py:score"},
}


def check(job: str, values: dict[str, Any], *words: str) -> int:
    Path("file.yaml").write_text(yaml.safe_dump(values))
    return importlib.import_module(f"jobs.{job}").main([*words, "file.yaml", "--check"])


def missing(job: str, values: dict[str, Any], *words: str) -> list[str]:
    with pytest.raises(MissingFile) as found:
        check(job, values, *words)
    return [str(Path(path).relative_to(Path.cwd())) for path in found.value.paths]


def test_check_of_a_training_run_names_every_missing_file(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("train", TRAIN) == 0
    absent = TRAIN | {
        "model": {"path": "base", "warm_start": "sft/adapter"},
        "task": {"type": "jsonl", "path": "none.jsonl"},
        "reward": {"type": "python", "path": "none.py:score"},
        "second_opinion": {"type": "python", "path": "mine.py:score"},
    }
    capsys.readouterr()
    assert missing("train", absent) == ["sft/adapter", "none.py", "none.jsonl"]
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["task"]["path"] == str(work / "none.jsonl") and "derived" in printed
    assert missing("train", TRAIN | {"model": {"path": "./none"}}) == ["none"]
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"reward": {"type": "python", "path": "mine.py:judge"}},
            ConfigError,
            r"mine\.py .*'judge'.* score",
        ),
        ({"reward": {"type": "python", "path": "broken.py:score"}}, ConfigError, r"broken\.py, line 1"),
        ({"task": {"type": "jsonl", "path": "broken.py"}}, DataError, r"broken\.py:1: .*JSON"),
        ({"model": {"path": "base", "warm_start": "base"}}, ConfigError, r"base .*adapter_config\.json"),
        ({"model": {"path": "empty"}}, ConfigError, r"model\.path='.*empty' .*config\.json"),
        ({"tracking": [{"type": "mlflow"}, {"type": "mlflow"}]}, ConfigError, "tracking"),
    ],
)
def test_check_refuses_inputs_that_would_fail_the_run(
    work: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    (work / "broken.py").write_text("def score(:")
    (work / "empty").mkdir()
    with pytest.raises(error, match=message):
        check("train", TRAIN | changes)


def test_check_notes_a_hub_base_that_is_not_cached(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("train", TRAIN | {"model": {"path": "nobody/no-such-model"}}) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len([note for note in notes if "model.path=nobody/no-such-model" in note]) == 1


def test_check_of_fine_tuning_looks_at_rows_task_and_model(work: Path) -> None:
    sft = {"name": "a", "model": {"path": "base"}, "data": {"type": "jsonl", "train": "rows.jsonl"}}
    assert missing("sft", sft) == ["rows.jsonl"]
    (work / "rows.jsonl").write_text('{"prompt": "1", "completion": "U"}\n')
    assert check("sft", sft) == 0
    assert missing("sft", sft | {"model": {"path": "base", "warm_start": "none"}}) == ["none"]
    own = {"name": "a", "model": {"path": "base"}, "task": {"type": "jsonl", "path": "prompts.jsonl"}}
    with pytest.raises(DataError, match=r"prompts\.jsonl: .*'response'"):
        check("sft", own)


def test_check_of_an_evaluation_looks_at_adapters_and_templates(work: Path) -> None:
    evaluate = {key: TRAIN[key] for key in ("name", "model", "task", "reward")}
    small = {"evaluation": {"num_samples": 8}}
    assert check("evaluate", evaluate | small | {"adapters": {"base": None}}) == 0
    arms = {"base": None, "x": {"adapter": "x/adapter", "prompt": "few.yaml"}, "y": "y/adapter"}
    assert missing("evaluate", evaluate | small | {"adapters": arms}) == [
        "x/adapter",
        "y/adapter",
        "few.yaml",
    ]


def test_check_of_a_judge_names_missing_samples(work: Path) -> None:
    judge = {"name": "a", "samples": "samples.jsonl", "judge": {"provider": "openai", "model": "m"}}
    assert missing("judge", judge) == ["samples.jsonl"]


def test_check_of_a_sweep_looks_at_the_inputs_of_its_trials(work: Path) -> None:
    (work / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    sweep = {
        "name": "s",
        "train": "train.yaml",
        "parameters": {"learner.learning_rate": {"grid": [0.1, 0.2]}},
    }
    sweep |= {"axis": "learner.learning_rate", "baseline": None, "overrides": ["evaluation.every=10"]}
    assert check("sweep", sweep) == 0
    swept = sweep | {"fleet": {"mode": "per_trial"}, "axis": "learner.learning_rate"}
    swept["parameters"] = {"task.path": {"grid": ["prompts.jsonl", "none.jsonl"]}}
    assert missing("sweep", swept) == ["none.jsonl"]


def test_check_of_a_service_looks_at_its_model_and_tokens(work: Path) -> None:
    serve = {"service": "generation", "model": {"path": "base"}}
    assert check("serve", serve) == 0
    assert missing("serve", serve | {"model": {"path": "./none"}}) == ["none"]
    with pytest.raises(ConfigError, match=r"tokens_file .*tokens\.yaml"):
        check("serve", serve | {"tokens_file": "tokens.yaml"})


def test_check_of_a_quickstart_looks_at_the_inputs_of_its_arms(work: Path) -> None:
    (work / "arm.yaml").write_text(yaml.safe_dump({key: TRAIN[key] for key in ("name", "task", "reward")}))
    quickstart = yaml.safe_load((REPOSITORY_ROOT / "configs/quickstart.yaml").read_text())
    quickstart |= {"arms": {"mine": "arm.yaml"}, "baseline_arm": "mine", "overrides": []}
    assert check("quickstart", quickstart) == 0
    (work / "mine.py").unlink()
    assert missing("quickstart", quickstart) == ["mine.py"]


@pytest.mark.parametrize("job", ["train", "evaluate"])
@pytest.mark.parametrize(("prompt", "expected"), [("1+1≠3", r"1\+1≠3"), ("1" * 90, r"max_prompt_tokens=\d+")])
def test_check_of_a_prompt_that_cannot_be_sampled_names_its_line(
    work: Path, job: str, prompt: str, expected: str
) -> None:
    line = json.dumps({"prompt": prompt, "reference": "2"}) + "\n"
    Path("prompts.jsonl").write_text(PROMPTS + (line if job == "train" else ""))
    Path("test.jsonl").write_text(line)
    task = {"type": "jsonl", "path": "prompts.jsonl", "held_out_path": "test.jsonl"}
    if job == "train":
        task |= {"held_out_path": None, "held_out_share": 0.05, "validation_share": 0.0}
    own = TRAIN if job == "train" else {"name": "a", "model": TRAIN["model"], "adapters": {"base": None}}
    place = r"prompts\.jsonl:21" if job == "train" else r"test\.jsonl:1"
    with pytest.raises(DataError, match=f"{expected}.*{place}|{place}.*{expected}"):
        check(job, own | {"task": task})


@pytest.mark.parametrize("job", ["train", "sft", "evaluate"])
def test_check_refuses_a_base_without_an_end_token(work: Path, job: str) -> None:
    file = work / "base" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in settings.items() if key != "eos_token"}))
    own = {"adapters": {"base": None}} if job == "evaluate" else {}
    values = {"name": "a", "model": {"path": "base"}, **own}
    with pytest.raises(ConfigError, match=r"eos_token .*tokenizer_config.json"):
        check(job, values)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_check_of_an_empty_prompts_file_names_the_file(work: Path, content: str) -> None:
    Path("prompts.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"prompts\.jsonl: .*empty"):
        check("train", TRAIN)


def test_check_reads_a_hundred_thousand_prompts_and_names_the_line_of_a_broken_one(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f'{{"prompt": "{number}|2=", "reference": "2"}}' for number in range(100_000)]
    Path("prompts.jsonl").write_text("\n".join(lines))
    assert check("train", TRAIN) == 0
    assert json.loads(capsys.readouterr().out)["config"]["task"]["path"] == str(work / "prompts.jsonl")
    Path("prompts.jsonl").write_text("\n".join([*lines[:76_543], '{"prompt": "7"', *lines[76_543:]]))
    with pytest.raises(DataError, match=r"prompts\.jsonl:76544: .*JSON"):
        check("train", TRAIN)
