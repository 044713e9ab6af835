"""A reward file that imports modules and opens files: what it finds, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyray.config.reward import PythonRewardSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, MissingFile, RewardError
from polyray.rewards import plan_reward
from polyray.rewards.base import Reward, ScoreItem
from polyray.rewards.sibling_modules import FINDER
from polyray.serving.reward.app import RunRewardService
from polyray.serving.reward.configuration import ReplicaConfiguration

TASK = HiddenTrapGridSpec(trap_probability=0.0)
ITEM = ScoreItem("37|b1>e4=", "RRRUUU")


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    modules = set(sys.modules)
    yield
    FINDER.places.clear()
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, source: str, **modules: str) -> PythonRewardSpec:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"mine": source, **modules}.items():
        (folder / f"{name}.py").write_text(text)
    return PythonRewardSpec(path=f"{folder / 'mine.py'}:score")


def score_of(reward: Reward) -> float | None:
    (found,) = reward.score([ITEM])
    return found.score


AT_TOP = "from marks_of_test import MARK\ndef score(items):\n    return [MARK for _ in items]\n"
INSIDE = "def score(items):\n    import marks_of_test\n    return [marks_of_test.MARK for _ in items]\n"


@pytest.mark.parametrize("source", [AT_TOP, INSIDE])
def test_module_beside_a_reward_is_imported(tmp_path: Path, source: str) -> None:
    spec = write(tmp_path / "a", source, marks_of_test="MARK = 0.25\n")
    assert score_of(plan_reward(spec, TASK).build()) == 0.25


def test_package_beside_a_reward_is_imported(tmp_path: Path) -> None:
    source = "def score(items):\n    from kit_of_test.parts import MARK\n    return [MARK for _ in items]\n"
    spec = write(tmp_path / "a", source)
    (tmp_path / "a" / "kit_of_test").mkdir()
    (tmp_path / "a" / "kit_of_test" / "__init__.py").write_text("")
    (tmp_path / "a" / "kit_of_test" / "parts.py").write_text("MARK = 0.75\n")
    assert score_of(plan_reward(spec, TASK).build()) == 0.75


def test_module_that_a_sibling_imports_is_found(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "a",
        AT_TOP,
        marks_of_test="from deeper_of_test import MARK\n",
        deeper_of_test="MARK = 0.5\n",
    )
    assert score_of(plan_reward(spec, TASK).build()) == 0.5


def test_equally_named_module_elsewhere_on_the_import_path_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "earlier_job", AT_TOP, marks_of_test="MARK = 0.25\n")
    spec = write(tmp_path / "a", AT_TOP, marks_of_test="MARK = 0.5\n")
    monkeypatch.syspath_prepend(tmp_path / "earlier_job")
    assert score_of(plan_reward(spec, TASK).build()) == 0.5


def test_edited_module_is_read_anew_and_changes_the_version(tmp_path: Path) -> None:
    spec = write(tmp_path / "a", AT_TOP, marks_of_test="MARK = 0.25\n")
    first = plan_reward(spec, TASK).build()
    write(tmp_path / "a", AT_TOP, marks_of_test="MARK = 0.5  # edited\n")
    second = plan_reward(spec, TASK).build()
    assert (score_of(first), score_of(second)) == (0.25, 0.5)
    assert first.version != second.version


def test_equally_named_modules_of_two_folders_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a", AT_TOP, marks_of_test="MARK = 0.25\n")
    second = write(tmp_path / "b", AT_TOP, marks_of_test="MARK = 0.5\n")
    plans = plan_reward(first, TASK), plan_reward(second, TASK)
    assert score_of(plans[0].build()) == 0.25
    with pytest.raises(RewardError, match=rf"marks_of_test, .*{tmp_path}/a/marks_of_test\.py"):
        plans[1].build()


def test_module_that_hides_behind_the_standard_library_is_refused(tmp_path: Path) -> None:
    spec = write(tmp_path, "import statistics\n" + INSIDE, statistics="MARK = 1\n", marks_of_test="")
    with pytest.raises(ConfigError, match="statistics"):
        plan_reward(spec, TASK)


def test_import_that_would_fail_is_refused_before_the_start(tmp_path: Path) -> None:
    spec = write(tmp_path, "import no_such_module_of_test\n" + INSIDE)
    with pytest.raises(ConfigError, match="no_such_module_of_test"):
        plan_reward(spec, TASK)
    guarded = "try:\n    import no_such_module_of_test\nexcept ImportError:\n    pass\n" + INSIDE
    assert plan_reward(write(tmp_path, guarded), TASK).sources


def test_missing_reward_file_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(MissingFile) as missing:
        plan_reward(PythonRewardSpec(path=f"{tmp_path}/none.py:score"), TASK)
    assert missing.value.paths == [f"{tmp_path}/none.py"]


async def test_replica_opens_relative_files_in_the_commands_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, replica = tmp_path / "command", tmp_path / "replica"
    source = (
        "from pathlib import Path\ndef score(items):\n    return [float(Path('words.txt').read_text())]\n"
    )
    spec = write(command, source)
    (command / "words.txt").write_text("0.5")
    replica.mkdir()
    monkeypatch.chdir(command)
    configuration = ReplicaConfiguration.of(plan_reward(spec, TASK)).as_json()
    monkeypatch.chdir(replica)
    service = RunRewardService(spec.service)
    await service.reconfigure(configuration)
    assert score_of(service.models.default.reward) == 0.5
