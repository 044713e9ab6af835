"""Functions given in Python: what identifies them, what is shipped, and what a replica loads."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.cloudpickle import cloudpickle

from polyray.config.paths import REPOSITORY_ROOT
from polyray.config.reward import CallableRewardSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, RewardError
from polyray.rewards import plan_reward
from polyray.rewards.base import ScoreItem
from polyray.rewards.callables import MAX_PICKLE_MIB, Identity, load_function, offer

CELL = """
import math
from dataclasses import dataclass

TABLE = {"a": 0.5, "b": 1.0}
ALLOWED = {"a", "b", "c", "d"}

@dataclass
class Judge:
    weight: float

    def __call__(self, text):
        return self.weight * TABLE.get(text, 0.0)

def make(weight):
    judge = Judge(weight)
    def score(items):
        return [judge(item["completion"]) if item["completion"] in ALLOWED else math.nan for item in items]
    return score

reward = make(1.0)
"""


def cell(source: str = CELL, file: str = "<ipython-input-1-0123456789ab>") -> Any:
    """`reward` of a notebook cell."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec", dont_inherit=True), namespace)
    return namespace["reward"]


def sha256(value: Any) -> str:
    return Identity().of(value)


def spec_of(function: Any) -> CallableRewardSpec:
    spec = CallableRewardSpec(name="reward", sha256=sha256(function))
    offer(spec.sha256, cloudpickle.dumps(function))
    return spec


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import math\n", "import math\n# a comment\n\n"),
        ("items):\n        return", "items):\n\n        return"),
    ],
)
def test_identity_ignores_lines_comments_and_file_names(old: str, new: str) -> None:
    assert sha256(cell(CELL.replace(old, new), "/tmp/ipykernel_7/99.py")) == sha256(cell())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("make(1.0)", "make(0.9)"),  # a value in a closure
        ('"b": 1.0', '"b": 0.9'),  # a global
        ('"c", "d"', '"c"'),
        ("self.weight *", "2 * self.weight *"),  # a method of a class that a closure holds
        ("math.nan", "0.0"),
    ],
)
def test_identity_changes_with_code_and_data(old: str, new: str) -> None:
    assert sha256(cell(CELL.replace(old, new))) != sha256(cell())


def test_identity_is_the_same_in_other_processes() -> None:
    code = f"import sys\nfrom polyray.rewards.callables import Identity\n{CELL}\nprint(Identity().of(reward))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY_ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {sha256(cell())}


def test_identity_of_recursion_defaults_and_arrays() -> None:
    def countdown(n: int, table: Any = np.arange(3)) -> int:  # noqa: B008
        return 0 if n == 0 else countdown(n - 1)

    def other(n: int, table: Any = np.arange(4)) -> int:  # noqa: B008
        return 0 if n == 0 else other(n - 1)

    assert sha256(countdown) == sha256(countdown) != sha256(other)


def test_identity_of_an_object_that_cannot_be_pickled_is_an_error() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        sha256(lambda items: lock)


def test_closure_of_a_cell_is_scored_like_a_function_of_a_file() -> None:
    reward = plan_reward(spec_of(cell()), HiddenTrapGridSpec()).build()
    items = [ScoreItem("37|b1>e4=", text) for text in ("a", "b", "x")]
    scores = reward.score(items)
    assert [score.score for score in scores] == [0.5, 1.0, None]
    assert reward.version == sha256(cell())[:12] and reward.name == "python/reward"


def test_error_of_a_function_names_function_and_line() -> None:
    function = cell("def reward(items):\n    return [1 / 0]\n", "/x/cell.py")
    reward = plan_reward(spec_of(function), HiddenTrapGridSpec())
    score = reward.build().score([ScoreItem("37|b1>e4=", "R")])[0]
    assert score.score is None and score.error is not None
    assert "ZeroDivisionError" in score.error and "/x/cell.py:2" in score.error


def test_function_of_another_process_is_an_error_with_a_fix() -> None:
    spec = CallableRewardSpec(name="make.<locals>.reward", sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"make\.<locals>\.reward .*reward=reward.*reward\.path"):
        plan_reward(spec, HiddenTrapGridSpec())


def test_pickle_that_cannot_be_loaded_is_a_reward_error() -> None:
    text = base64.b64encode(pickle.dumps(Path("x")).replace(b"pathlib", b"nowhere")).decode()
    with pytest.raises(RewardError, match="ModuleNotFoundError"):
        load_function(CallableRewardSpec(name="reward", sha256="0" * 64), text)


def test_function_above_the_size_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"limit of {MAX_PICKLE_MIB} MiB"):
        offer("0" * 64, bytes(MAX_PICKLE_MIB * 2**20 + 1))
