"""`--check` reads every input that is on this machine, with the code of the start, and starts no process."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.cli import analyze, sft
from polyray.config.model import LoraSpec
from polyray.errors import ConfigError, DataError, MissingFile
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import attach_adapter, save_adapter
from tests.conftest import REPOSITORY_ROOT
from tests.job_checks import check_without_models
from tests.unit.tiny_policy import save_base

PROMPTS = "".join(f'{{"prompt": "{number}|2=", "reference": "2"}}\n' for number in range(10, 30))


def python(path: str) -> dict[str, Any]:
    return {"reward": {"type": "python", "path": path}}


def jsonl(path: str) -> dict[str, Any]:
    return {"task": {"type": "jsonl", "path": path}}


BASE: dict[str, Any] = {"name": "a", "model": {"path": "base"}}
TASK = jsonl("prompts.jsonl") | python("mine.py:score")
TRAIN = BASE | TASK
SFT = BASE | {"data": {"type": "jsonl", "train": "rows.jsonl"}}
EVALUATE = TRAIN | {"evaluation": {"num_samples": 8}, "adapters": {"base": None}}
SERVE: dict[str, Any] = {"service": "generation", "model": {"path": "base"}}
ARMS = {"base": None, "x": {"adapter": "x/adapter", "prompt": "few.yaml"}, "y": "y/adapter"}
RATE = "learner.learning_rate"
SWEEP = {"name": "s", "train": "train.yaml", "parameters": {RATE: {"grid": [0.1, 0.2]}}, "axis": RATE,
         "baseline": None, "overrides": ["evaluation.every=10"]}  # fmt: skip
SWEPT = {
    "fleet": {"mode": "per_trial"},
    "parameters": {"task.path": {"grid": ["prompts.jsonl", "none.jsonl"]}},
}
JUDGE = {"name": "a", "samples": "samples.jsonl", "judge": {"provider": "openai", "model": "m"}}
GRID, GRID_EVALUATION = (
    yaml.safe_load((REPOSITORY_ROOT / f"configs/{folder}/hidden_trap_grid.yaml").read_text())
    for folder in ("train", "evaluate")
)
QUICKSTART = yaml.safe_load((REPOSITORY_ROOT / "configs/quickstart.yaml").read_text()) | {
    "arms": {"mine": "arm.yaml"}, "baseline_arm": "mine", "overrides": []
}  # fmt: skip


STALE = {
    "type": "polychromic",
    "objective": "coverage",
    "set_size": 8,
    "stale_weights": "set_product",
    "proximal": "learner",
    "importance_correction": "none",
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current directory of the command, with a base model, data and a reward."""
    save_base(tmp_path / "base")
    files = {
        "prompts.jsonl": PROMPTS,
        "rows.jsonl": '{"prompt": "1", "completion": "U"}\n',
        "mine.py": "def score(items):\n    return [0.5 for _ in items]\n",
        "broken.py": "def score(:",
        "long.jsonl": "".join(
            json.dumps({"prompt": f"{number}=", "response": "U" * 9 * number}) + "\n" for number in range(10)
        ),
        "train.yaml": yaml.safe_dump(TRAIN),
        "arm.yaml": yaml.safe_dump(GRID | python("mine.py:score")),
        "bad.yaml": yaml.safe_dump(GRID | python("none.py:score")),
        "asked.yaml": yaml.safe_dump(GRID_EVALUATION | {"adapters": {"few": {"prompt": "few.yaml"}}}),
        "empty/file": "",
    }
    (tmp_path / "empty").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(job: str, values: dict[str, Any]) -> int:
    Path("file.yaml").write_text(yaml.safe_dump(values))
    return importlib.import_module(f"jobs.{job}").main(["file.yaml", "--check"])


@pytest.mark.parametrize(
    ("job", "values", "changes", "missing"),
    [
        ("train", TRAIN, {"model": {"path": "./none"}}, ["none"]),
        (
            "train",
            TRAIN,
            {
                "model": {"path": "base", "warm_start": "sft/adapter"},
                **jsonl("none.jsonl"),
                **python("none.py:score"),
                "second_opinion": {"type": "python", "path": "mine.py:score"},
            },
            ["sft/adapter", "none.py", "none.jsonl"],
        ),
        ("sft", SFT, {"data": {"type": "jsonl", "train": "none.jsonl"}}, ["none.jsonl"]),
        ("sft", SFT, {"model": {"path": "base", "warm_start": "none"}}, ["none"]),
        ("evaluate", EVALUATE, {"adapters": ARMS}, ["x/adapter", "y/adapter", "few.yaml"]),
        ("judge", None, JUDGE, ["samples.jsonl"]),
        ("sweep", SWEEP, SWEPT, ["none.jsonl"]),
        ("serve", SERVE, {"model": {"path": "./none"}}, ["none"]),
        ("quickstart", QUICKSTART, {"arms": {"mine": "bad.yaml"}}, ["none.py"]),
        ("quickstart", QUICKSTART | {"pretrain": None}, {"evaluate": "asked.yaml"}, ["few.yaml"]),
    ],
)  # fmt: skip
def test_check_accepts_complete_inputs_and_names_every_missing_file(
    work: Path,
    job: str,
    values: dict[str, Any] | None,
    changes: dict[str, Any],
    missing: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert values is None or check(job, values) == 0
    capsys.readouterr()
    with pytest.raises(MissingFile) as found:
        check(job, (values or {}) | changes)
    assert [str(Path(path).relative_to(work)) for path in found.value.paths] == missing
    assert json.loads(capsys.readouterr().out)["job"] == job
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("job", "values", "error", "message"),
    [
        ("train", TRAIN | python("mine.py:judge"), ConfigError, r"mine\.py .*'judge'.* score"),
        ("train", TRAIN | python("broken.py:score"), ConfigError, r"broken\.py, line 1"),
        ("train", TRAIN | jsonl("broken.py"), DataError, r"broken\.py:1: .*JSON"),
        ("train", TRAIN | jsonl("empty/file"), DataError, r"file: .*empty"),
        ("train", TRAIN | {"model": {"path": "base", "warm_start": "base"}}, ConfigError, r"adapter_config\.json"),
        ("train", TRAIN | {"model": {"path": "empty"}}, ConfigError, r"model\.path='.*empty' .*config\.json"),
        ("train", TRAIN | {"tracking": [{"type": "mlflow"}, {"type": "mlflow"}]}, ConfigError, "tracking"),
        ("train", TRAIN | {"supervised": {}}, DataError, r"prompts\.jsonl: .*'response'"),
        ("train", TRAIN | jsonl("long.jsonl") | {"supervised": {}}, DataError, r"'long-\d+' .*max_tokens=64"),
        ("train", TRAIN | {"algorithm": STALE, "rollout": {"group_size": 32}}, ConfigError, r"10,518,300 of them"),
        ("sft", BASE | {"task": TASK["task"]}, DataError, r"prompts\.jsonl: .*'response'"),
        ("sft", SFT | {"data": {"type": "jsonl", "train": "prompts.jsonl"}}, DataError, r"jsonl:1: .*'completion'"),
        ("serve", SERVE | {"tokens_file": "tokens.yaml"}, ConfigError, r"tokens_file .*tokens\.yaml"),
    ],
)  # fmt: skip
def test_check_refuses_inputs_that_would_fail_the_run(
    work: Path, job: str, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(job, values)


def test_check_of_an_ablation_reads_what_its_evaluation_reads(work: Path) -> None:
    digest = base_fingerprint(work / "base")
    model = attach_adapter(
        load_base(work / "base", "float32"), LoraSpec(rank=4), None, base_sha256=digest, seed=0
    )
    save_adapter(model, work / "adapter", {"base_sha256": digest})
    line = ["ablation", "file.yaml", "--adapter", "adapter", "--check"]
    Path("file.yaml").write_text(yaml.safe_dump(EVALUATE))
    assert analyze.main(line) == 0
    with pytest.raises(MissingFile, match=r"none\.jsonl"):
        analyze.main([*line, "task.path=none.jsonl"])


def test_check_notes_a_hub_base_that_is_not_cached(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("train", TRAIN | {"model": {"path": "nobody/no-such-model"}}) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len([note for note in notes if "model.path=nobody/no-such-model" in note]) == 1


@pytest.mark.parametrize("job", ["train", "evaluate"])
@pytest.mark.parametrize(("prompt", "expected"), [("1+1≠3", r"1\+1≠3"), ("1" * 90, r"max_prompt_tokens=\d+")])
def test_check_names_the_line_of_a_prompt_that_cannot_be_sampled(
    work: Path, job: str, prompt: str, expected: str
) -> None:
    line = json.dumps({"prompt": prompt, "reference": "2"}) + "\n"
    Path("prompts.jsonl").write_text(PROMPTS + (line if job == "train" else ""))
    Path("test.jsonl").write_text(line)
    task = {"type": "jsonl", "path": "prompts.jsonl", "held_out_path": "test.jsonl"}
    if job == "train":
        task |= {"held_out_path": None, "held_out_share": 0.05, "validation_share": 0.0}
    own = TRAIN if job == "train" else BASE | {"adapters": {"base": None}}
    place = r"prompts\.jsonl:21" if job == "train" else r"test\.jsonl:1"
    with pytest.raises(DataError, match=f"{expected}.*{place}|{place}.*{expected}"):
        check(job, own | {"task": task})


@pytest.mark.parametrize("job", ["train", "sft", "evaluate"])
def test_check_refuses_a_base_without_an_end_token(work: Path, job: str) -> None:
    file = work / "base" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in settings.items() if key != "eos_token"}))
    with pytest.raises(ConfigError, match=r"eos_token .*tokenizer_config.json"):
        check(job, BASE | ({"adapters": {"base": None}} if job == "evaluate" else {}))


def test_check_names_the_broken_line_of_a_hundred_thousand_prompts(work: Path) -> None:
    lines = [f'{{"prompt": "{number}|2=", "reference": "2"}}' for number in range(100_000)]
    Path("prompts.jsonl").write_text("\n".join([*lines[:76_543], '{"prompt": "7"', *lines[76_543:]]))
    with pytest.raises(DataError, match=r"prompts\.jsonl:76544: .*JSON"):
        check("train", TRAIN)


@pytest.mark.parametrize(
    ("rows", "config", "expected"),
    [
        (
            10,
            "epochs: 3\ndemonstrations_per_step: 4\nmax_tokens: 16\n",
            {"rows": 10, "validation_rows": 0, "epochs": 3.2, "steps": 8, "demonstrations_in_run": 32,
             "max_tokens_per_step": 64, "logical_cpus_needed": 1.0},
        ),
        (
            None,
            "learner: {steps: 5}\n",
            {"steps": 5, "demonstrations_in_run": 320, "max_tokens_per_step": 4096, "logical_cpus_needed": 1.0},
        ),
    ],
)  # fmt: skip
def test_check_of_sft_derives_sizes(
    rows: int | None,
    config: str,
    expected: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if rows is not None:
        (tmp_path / "mine.jsonl").write_text('{"prompt": "1", "completion": "U"}\n' * rows)
        config += f"data: {{type: jsonl, train: {tmp_path / 'mine.jsonl'}}}\n"
    (tmp_path / "sft.yaml").write_text(f"name: a\n{config}")
    assert check_without_models(sft.main, [str(tmp_path / "sft.yaml")]) == 0
    sizes = json.loads(capsys.readouterr().out)["derived"]
    assert re.fullmatch(r"\d+ rows: .+", str(sizes.pop("micro_batch")))
    assert re.match(r"2: ", sizes.pop("learner_threads"))
    assert sizes == expected


def test_allow_code_execution_reaches_the_objective_reward_of_sft(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(
        "name: a\ntask: {type: code}\nmodel: {path: Qwen/Qwen3-0.6B}\nmax_tokens: 896\n"
        "objective: {type: polychromic, objective: distinct_correct, diversity_weight: 0.3, set_size: 4, "
        "reward: {type: sandbox}, rollout: {group_size: 8}}\n"
    )
    with pytest.raises(ConfigError, match="allow_code_execution=false"):
        sft.main([str(file), "--check"])
    capsys.readouterr()
    assert sft.main([str(file), "--check", "--allow-code-execution"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["objective"]["reward"]["allow_code_execution"] is True
