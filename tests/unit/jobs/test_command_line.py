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
from polyray.config.run import PretrainConfig, TrainConfig
from polyray.errors import ConfigError, MissingFile, RewardError

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "ray", "vllm", "transformers", "anthropic", "openai")

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


NEED_A_MODEL = ("sft", "train", "evaluate")


def jobs_with_configs() -> list[tuple[str, str]]:
    """One file for every job that reads one."""
    files = {
        "pretrain": "configs/pretrain.yaml",
        "sft": "configs/sft/hidden_trap_grid.yaml",
        "train": "configs/train/hidden_trap_grid.yaml",
        "evaluate": "configs/evaluate/hidden_trap_grid.yaml",
        "judge": "configs/judge/pairwise.yaml",
        "quickstart": "configs/quickstart.yaml",
    }
    return [(job, file) for job, file in files.items() if job in COMMANDS]


@pytest.mark.parametrize(("job", "file"), jobs_with_configs())
def test_check_prints_the_resolved_configuration_without_heavy_imports(job: str, file: str) -> None:
    done = run_code(probe(job), file, "--check", "seed=7")
    assert done.returncode == 0, done.stderr
    checked = json.loads(done.stdout)
    assert (checked["job"], checked["config"]["seed"]) == (job, 7)
    assert "HEAVY []" in done.stderr
    assert ("/nonexistent/.cache/polyray/models/embedded.json" in done.stderr) == (job in NEED_A_MODEL)


@pytest.mark.parametrize("name", ["loop", "objectives", "gpu"])
@pytest.mark.parametrize("option", ["--help", "--check"])
def test_benchmark_help_and_check_have_no_heavy_imports(name: str, option: str) -> None:
    done = run_code(probe("benchmarks"), name, option)
    assert done.returncode == 0, done.stderr
    assert f"benchmarks {name}" in done.stdout
    assert "HEAVY []" in done.stderr


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
    assert (
        "@gspo " in done.stdout
        and "(arXiv 2507.18071); use with learner.mini_batch_groups=8\n" in done.stdout
    )
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
            "error = RewardError('no score'); error.log = 'runs/x/error.log'; raise error",
            1,
            "error: no score\nfull traceback: runs/x/error.log\n",
        ),
        (
            "import not_there.part",
            2,
            r"error: .*\bnot_there\b.*make setup.*\n",
        ),
    ],
)
def test_job_end_sets_exit_code_and_one_line_of_stderr(body: str, code: int, line: str) -> None:
    done = run_code(JOB.format(body=body))
    assert done.returncode == code
    assert re.fullmatch(line, done.stderr)


def test_a_defect_keeps_its_traceback() -> None:
    done = run_code(JOB.format(body="return 1 / 0"))
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_the_traceback_of_our_errors_on_request() -> None:
    done = run_code(JOB.format(body="raise ConfigError('too small')"), POLYRAY_TRACEBACK="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: too small\n")


def test_processes_of_a_job_find_the_repository() -> None:
    done = run_code(JOB.format(body="print(os.environ['PYTHONPATH'])"), PYTHONPATH=f"/elsewhere:{ROOT}")
    assert done.stdout == f"{ROOT}:/elsewhere\n"


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
def test_a_mistaken_command_line(pretrain_file: str, arguments: list[str], expected: str) -> None:
    argv = [pretrain_file if argument == "FILE" else argument for argument in arguments]
    with pytest.raises(ConfigError) as caught:
        parse(argv, job="pretrain", description="", config_model=PretrainConfig)
    assert expected in str(caught.value)


def test_overrides_and_options_in_any_order(pretrain_file: str) -> None:
    args = parse(
        ["--check", "steps=4", pretrain_file, "--rounds", "2", "seed=1"],
        job="pretrain",
        description="",
        config_model=PretrainConfig,
        extra=lambda parser: parser.add_argument("--rounds", type=int) and None,
    )
    assert (args.check, args.config.steps, args.config.seed, args.namespace.rounds) == (True, 4, 1, 2)


def test_the_default_config_is_used_when_none_is_given(pretrain_file: str) -> None:
    args = parse(
        ["seed=5"], job="pretrain", description="", config_model=PretrainConfig, default_config=pretrain_file
    )
    assert (args.config.steps, args.config.seed, args.check) == (3, 5, False)


def test_print_check_adds_the_derived_sizes(
    pretrain_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("name: a\n", encoding="utf-8")
    args = parse([str(path)], job="train", description="", config_model=TrainConfig)
    assert args.print_check(derived=lambda: {"groups_per_step": 16}) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["derived"] == {"groups_per_step": 16}
    assert checked["config"]["rollout"]["group_size"] == 16


def test_print_check_shows_the_configuration_where_a_file_is_missing(
    pretrain_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse([pretrain_file], job="pretrain", description="", config_model=PretrainConfig)

    def derived() -> dict[str, Any]:
        raise MissingFile("/shared/x.jsonl: no such file; set data.train")

    with pytest.raises(MissingFile) as missing:
        args.print_check(derived)
    assert missing.value.paths == ["/shared/x.jsonl"]
    assert json.loads(capsys.readouterr().out)["config"]["steps"] == 3


def test_a_parser_without_config_refuses_unknown_options() -> None:
    parser = JobParser("report", "")
    parser.add_argument("--out")
    with pytest.raises(ConfigError, match="--ot=x; did you mean --out"):
        parser.parse_strictly(["--ot=x"])


def test_error_classes_have_exit_codes() -> None:
    assert (ConfigError.exit_code, RewardError.exit_code) == (2, 1)
