"""A reward file that imports modules and opens files: resolution and refusals."""

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


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    modules = set(sys.modules)
    yield
    FINDER.places.clear()
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, source: str, **modules: str) -> PythonRewardSpec:
    """mine.py with `source`, and its modules by their path."""
    for name, text in {"mine": source, **modules}.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return PythonRewardSpec(path=f"{folder / 'mine.py'}:score")


def score_of(reward: Reward) -> float | None:
    (found,) = reward.score([ScoreItem("37|b1>e4=", "RRRUUU")])
    return found.score


AT_TOP = "from marks_of_test import MARK\ndef score(items):\n    return [MARK for _ in items]\n"
INSIDE = "def score(items):\n    import marks_of_test\n    return [marks_of_test.MARK for _ in items]\n"
OF_PACKAGE = AT_TOP.replace("marks_of_test", "kit_of_test.parts")


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        (AT_TOP, {"marks_of_test": "MARK = 0.5\n"}),
        (INSIDE, {"marks_of_test": "MARK = 0.5\n"}),
        (OF_PACKAGE, {"kit_of_test/parts": "MARK = 0.5\n", "kit_of_test/__init__": ""}),
        (AT_TOP, {"marks_of_test": "from deeper_of_test import MARK\n", "deeper_of_test": "MARK = 0.5\n"}),
    ],
)
def test_sibling_module_is_imported_from_beside_the_reward(
    source: str, modules: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "earlier_job", AT_TOP, marks_of_test="MARK = 0.25\n")
    monkeypatch.syspath_prepend(tmp_path / "earlier_job")
    assert score_of(plan_reward(write(tmp_path / "a", source, **modules), TASK).build()) == 0.5


def test_sibling_module_that_was_edited_is_read_anew_and_changes_the_version(tmp_path: Path) -> None:
    rewards = []
    for mark in ("0.25", "0.5  # edited"):
        spec = write(tmp_path, AT_TOP, marks_of_test=f"MARK = {mark}\n")
        rewards.append(plan_reward(spec, TASK).build())
    assert [score_of(reward) for reward in rewards] == [0.25, 0.5]
    assert rewards[0].version != rewards[1].version


def test_sibling_modules_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    plans = [
        plan_reward(write(tmp_path / name, AT_TOP, marks_of_test=f"MARK = {mark}\n"), TASK)
        for name, mark in (("a", 0.25), ("b", 0.5))
    ]
    assert score_of(plans[0].build()) == 0.25
    with pytest.raises(RewardError, match=rf"marks_of_test, .*{tmp_path}/a/marks_of_test\.py"):
        plans[1].build()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import statistics\n" + INSIDE, "statistics"),  # hides behind the standard library
        ("import no_such_module_of_test\n" + INSIDE, "no_such_module_of_test"),
        ("try:\n    import no_such_module_of_test\nexcept ImportError:\n    pass\n" + INSIDE, None),
    ],
)
def test_reward_import_that_would_fail_is_refused_before_the_start(
    source: str, message: str | None, tmp_path: Path
) -> None:
    hiding = {"statistics": "MARK = 1\n"} if message == "statistics" else {}
    spec = write(tmp_path, source, marks_of_test="", **hiding)
    if message is None:
        assert plan_reward(spec, TASK).sources
    else:
        with pytest.raises(ConfigError, match=message):
            plan_reward(spec, TASK)
    with pytest.raises(MissingFile) as missing:
        plan_reward(PythonRewardSpec(path=f"{tmp_path}/none.py:score"), TASK)
    assert missing.value.paths == [f"{tmp_path}/none.py"]


async def test_reward_replica_opens_relative_files_in_the_commands_directory(
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
