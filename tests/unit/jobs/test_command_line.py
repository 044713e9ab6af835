"""Rules of every command line: light --check and --help, one-line errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.__main__ import COMMANDS
from polyray.cli.arguments import JobParser, parse
from polyray.config.presets import presets
from polyray.config.run import PretrainConfig
from polyray.errors import ConfigError, MissingFile

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "ray", "vllm", "transformers", "sentence_transformers", "datasets", "optuna", "anthropic",
         "openai")  # fmt: skip

PROBE = """
import sys
try:
    from {module} import main
    sys.exit(main(sys.argv[1:]))
except Exception as error:
    if type(error).__name__ != "MissingFile":
        raise
    print("MISSING", error.paths, file=sys.stderr)
finally:
    print("HEAVY", sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)
"""

JOB = """
import os, sys
from polyray.cli.arguments import run
from polyray.errors import ConfigError, RewardError

class Wrapped(ConfigError):
    cause = RewardError("the service is gone")

def main():
    {body}

run(main)
"""


def run_code(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def probe(job: str) -> str:
    """Code that calls the job's main and prints loaded heavy modules."""
    module = "benchmarks.__main__" if job == "benchmarks" else f"jobs.{job}"
    return PROBE.format(module=module, heavy=HEAVY)


NEED_A_MODEL = ("sft", "train", "evaluate", "sweep")


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("pretrain", ["configs/pretrain.yaml", "seed=7"]),
        ("sft", ["configs/sft/hidden_trap_grid.yaml", "seed=7"]),
        ("train", ["configs/train/hidden_trap_grid.yaml", "seed=7"]),
        ("evaluate", ["configs/evaluate/hidden_trap_grid.yaml", "seed=7"]),
        ("judge", ["configs/judge/pairwise.yaml", "seed=7"]),
        ("quickstart", ["configs/quickstart.yaml", "seed=7"]),
        ("sweep", ["configs/sweep/optuna_pareto.yaml"]),
        ("serve", ["configs/serve/reward.yaml"]),
        ("curate", ["data", "configs/curate/stack_exchange.yaml"]),
        ("train_reward", ["configs/reward/my_pairs.yaml"]),
    ],
)
def test_check_prints_the_resolved_configuration_without_heavy_imports(
    job: str, arguments: list[str]
) -> None:
    done = run_code(probe(job), *arguments, "--check")
    assert done.returncode == 0, done.stderr
    checked = json.loads(done.stdout)
    assert checked["job"].startswith(job) and checked["config"].get("seed", 7) in (0, 7)
    assert "HEAVY []" in done.stderr
    assert ("/nonexistent/.cache/polyray/models/embedded.json" in done.stderr) == (job in NEED_A_MODEL)


@pytest.mark.parametrize("job", sorted(COMMANDS))
def test_help_has_no_heavy_imports(job: str) -> None:
    done = run_code(probe(job), "--help")
    assert done.returncode == 0, done.stderr
    assert f"polyray {job}" in done.stdout
    assert "HEAVY []" in done.stderr


def test_list_of_algorithms_names_every_preset_without_heavy_imports() -> None:
    done = run_code(probe("train"), "--list-algorithms")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [f"@{name}" for name in presets()]
    assert re.search(r"@gspo .*2507\.18071.*learner\.mini_batch_groups=8$", done.stdout, re.MULTILINE)
    assert "HEAVY []" in done.stderr


def test_list_of_commands_names_every_door() -> None:
    doors = {file.stem for file in (ROOT / "jobs").glob("*.py") if not file.stem.startswith("_")}
    assert doors == set(COMMANDS)
    done = subprocess.run(
        [sys.executable, "-m", "jobs"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("return None", 0, ""),
        ("return 1", 1, ""),
        ("raise ConfigError('x=1 is too small; raise it')", 2, "error: x=1 is too small; raise it\n"),
        ("raise RewardError('no score')", 1, "error: no score\n"),
        ("raise Wrapped('what Ray makes of it')", 1, "error: the service is gone\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("import signal; os.kill(os.getpid(), signal.SIGTERM)", 130, "interrupted\n"),
        (
            "error = RewardError('x'); error.log = 'a.log'; raise error",
            1,
            "error: x\nfull traceback: a.log\n",
        ),
        ("import not_there.part", 2, r"error: .*\bnot_there\b.*make setup.*\n"),
        ("return 1 / 0", 1, r"(?s)Traceback.*ZeroDivisionError: .*"),
        ("print(os.environ['PYTHONPATH'], file=sys.stderr)", 0, f"{ROOT}:/elsewhere\n"),
    ],
)
def test_job_end_sets_exit_code_and_one_line_of_stderr(body: str, code: int, line: str) -> None:
    done = run_code(JOB.format(body=body), PYTHONPATH=f"/elsewhere:{ROOT}")
    assert done.returncode == code
    assert re.fullmatch(line, done.stderr)


def test_traceback_of_a_refused_configuration_is_shown_on_request() -> None:
    done = run_code(JOB.format(body="raise ConfigError('too small')"), POLYRAY_TRACEBACK="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: too small\n")


@pytest.fixture
def pretrain_file(tmp_path: Path) -> str:
    path = tmp_path / "pretrain.yaml"
    path.write_text("steps: 3\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["FILE", "--chek"], "--chek; did you mean --check?"),
        (["FILE", "--frobnicate"], "--frobnicate; known: -h, --help, --check"),
        (["FILE", "other.yaml"], "CONFIG"),
        ([], "CONFIG"),
        (["FILE", "stepz=4"], "'stepz'; did you mean 'steps'?"),
    ],
)
def test_parse_names_a_mistake_and_the_nearest_word(
    pretrain_file: str, arguments: list[str], expected: str
) -> None:
    argv = [pretrain_file if argument == "FILE" else argument for argument in arguments]
    with pytest.raises(ConfigError) as caught:
        parse(argv, job="pretrain", description="", config_model=PretrainConfig)
    assert expected in str(caught.value)


def test_parse_takes_overrides_and_options_in_any_order_and_a_default_file(pretrain_file: str) -> None:
    args = parse(
        ["--check", "steps=4", pretrain_file, "--rounds", "2", "seed=1"],
        job="pretrain",
        description="",
        config_model=PretrainConfig,
        extra=lambda parser: parser.add_argument("--rounds", type=int) and None,
    )
    assert (args.check, args.config.steps, args.config.seed, args.namespace.rounds) == (True, 4, 1, 2)
    args = parse(
        ["seed=5"], job="pretrain", description="", config_model=PretrainConfig, default_config=pretrain_file
    )
    assert (args.config.steps, args.config.seed, args.check) == (3, 5, False)


def test_print_check_adds_derived_sizes_and_shows_the_configuration_before_a_missing_file(
    pretrain_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse([pretrain_file], job="pretrain", description="", config_model=PretrainConfig)
    assert args.print_check(derived=lambda: {"groups_per_step": 16}) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["derived"], checked["config"]["steps"]) == ({"groups_per_step": 16}, 3)

    def derived() -> dict[str, Any]:
        raise MissingFile("/shared/x.jsonl: no such file; set data.train")

    with pytest.raises(MissingFile) as missing:
        args.print_check(derived)
    assert missing.value.paths == ["/shared/x.jsonl"]
    assert json.loads(capsys.readouterr().out)["config"]["steps"] == 3


def test_parser_without_a_config_refuses_unknown_options() -> None:
    parser = JobParser("report", "")
    parser.add_argument("--out")
    with pytest.raises(ConfigError, match="--ot=x; did you mean --out"):
        parser.parse_strictly(["--ot=x"])
