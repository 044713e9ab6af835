"""The wheel, installed into an empty environment and used from another directory, as after `pip install`.

Nothing is downloaded: the environment sees the packages of the running one, but not the repository.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from polyray import __version__
from polyray.cli.__main__ import COMMANDS
from polyray.runs.jsonl import read_jsonl
from tests.conftest import PRETRAIN_STEPS, REPOSITORY_ROOT

PARTS = ("polyray", "configs", "requirements", "setup.py", "pyproject.toml", "README.md", "LICENSE")
CONFIG = "configs/train/hidden_trap_grid.yaml"
TINY = (
    "learner.steps=2", "learner.num_threads=1", "rollout.num_workers=1", "rollout.prompts_per_step=2",
    "rollout.group_size=5", "reward.service.port=0", "dynamics=null", "ray.dashboard=false",
)  # fmt: skip
SMALLER = {
    "pretrain": (f"steps={PRETRAIN_STEPS}", "batch_rows=64", "num_threads=1"),
    "train": TINY,
    "report": (),
}


@dataclass(frozen=True)
class Installed:
    """A wheel and the environment that holds it."""

    wheel: Path
    environment: Path
    home: Path

    def run(self, directory: Path, *words: str, seconds: float = 240.0) -> subprocess.CompletedProcess[str]:
        """A program of the environment, with a home of its own."""
        variables = {
            name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")
        }
        variables |= {"HOME": str(self.home), "HF_HUB_OFFLINE": "1"}
        program, *arguments = words
        return subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=directory, env=variables, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy of the working tree, which stays clean."""
    directory = tmp_path_factory.mktemp("wheel")
    source, environment = directory / "source", directory / "environment"
    source.mkdir()
    for name in PARTS:
        if (REPOSITORY_ROOT / name).is_dir():
            shutil.copytree(
                REPOSITORY_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(REPOSITORY_ROOT / name, source)
    offline = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    pip(["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(directory), str(source)])
    (wheel,) = directory.glob("*.whl")
    venv.create(environment, symlinks=True)
    (site_packages,) = environment.glob("lib/python3.*/site-packages")
    packages = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site_packages / "packages-of-the-running-environment.pth").write_text("\n".join(packages))
    pip(["--python", str(environment / "bin" / "python"), "install", *offline, "--no-compile", str(wheel)])
    (directory / "home" / ".cache").mkdir(parents=True)
    return Installed(wheel, environment, directory / "home")


def pip(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def with_model(installed: Installed, model_cache: Path) -> Installed:
    """The home has the session's embedded model at the default place."""
    link = installed.home / ".cache" / "polyray"
    if not link.exists():
        link.symlink_to(model_cache)
    return installed


def test_wheel_holds_every_file_of_the_package_and_of_configs(installed: Installed) -> None:
    source = installed.wheel.parent / "source"
    expected = {
        f"{prefix}{file.relative_to(source)}"
        for folder, prefix in (("polyray", ""), ("configs", "polyray/"))
        for file in (source / folder).rglob("*")
        if file.is_file()
    }
    with ZipFile(installed.wheel) as wheel:
        assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"polyray/configs/pretrain.yaml", "polyray/serving/generation/page/index.html"} <= expected


def test_installed_polyray_is_the_one_of_the_environment(installed: Installed, tmp_path: Path) -> None:
    code = "import polyray, polyray.config.paths as p; print(polyray.__file__, p.REPOSITORY_ROOT, p.import_path())"
    printed = installed.run(tmp_path, "python", "-c", code).stdout.split()
    assert Path(printed[0]).is_relative_to(installed.environment)
    assert printed[1:] == ["None", "{}"]


def test_help_lists_the_commands(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "polyray", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_version_and_help_of_a_command_from_any_directory(installed: Installed, tmp_path: Path) -> None:
    assert installed.run(tmp_path, "polyray", "--version").stdout == f"polyray {__version__}\n"
    done = installed.run(tmp_path, "polyray", "train", "--help")
    assert done.returncode == 0 and "usage: polyray train CONFIG" in done.stdout


def test_misspelt_command_names_the_nearest_one(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "polyray", "trian", CONFIG)
    assert done.returncode == 2
    assert re.fullmatch("error: .*'trian'; did you mean train\\?\n", done.stderr)


@pytest.mark.slow  # a Ray and an engine of its own
def test_wheel_trains_two_steps_of_a_shipped_configuration(with_model: Installed, tmp_path: Path) -> None:
    done = with_model.run(tmp_path, "polyray", "train", CONFIG, "name=two", "model.warm_start=null", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "two"
    assert [line["step"] for line in read_jsonl(run / "metrics.jsonl")] == [0, 1]
    assert (run / "adapter" / "adapter_config.json").is_file() and (run / "DONE").is_file()


def printed_commands(text: str) -> list[list[str]]:
    """Commands that `polyray init` prints, the change of directory included."""
    return [shlex.split(line) for line in re.findall(r"^  ((?:cd|polyray) .*)$", text, re.MULTILINE)]


def test_init_writes_a_task_that_passes_its_check(with_model: Installed, tmp_path: Path) -> None:
    done = with_model.run(tmp_path, "polyray", "init", "my-task")
    (_, directory), *commands = printed_commands(done.stdout)
    assert [words[1] for words in commands] == ["pretrain", "train", "train", "report"]
    check = next(words for words in commands if "--check" in words)
    checked = with_model.run(tmp_path / directory, *check)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow  # a run of its own
def test_init_prints_commands_that_train_and_report(with_model: Installed, tmp_path: Path) -> None:
    (_, directory), *commands = printed_commands(
        with_model.run(tmp_path, "polyray", "init", "my-task").stdout
    )
    for words in commands:
        added = SMALLER[words[1]] if "--check" not in words else ()
        done = with_model.run(tmp_path / directory, *words, *added)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    run = tmp_path / directory / "runs" / "my-task"
    assert [line["unscored"] for line in read_jsonl(run / "metrics.jsonl")] == [0, 0]
    assert (run / "report.html").is_file() and (run / "adapter" / "adapter_config.json").is_file()
