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
    ("old", "new", "same"),
    [
        ("import math\n", "import math\n# a comment\n\n", True),
        ("items):\n        return", "items):\n\n        return", True),
        ("make(1.0)", "make(0.9)", False),  # a value in a closure
        ('"b": 1.0', '"b": 0.9', False),  # a global
        ('"c", "d"', '"c"', False),
        ("self.weight *", "2 * self.weight *", False),  # a method of a class that a closure holds
        ("math.nan", "0.0", False),
    ],
)
def test_identity_follows_code_and_data_alone(old: str, new: str, same: bool) -> None:
    changed = cell(CELL.replace(old, new), "/tmp/ipykernel_7/99.py")
    assert (sha256(changed) == sha256(cell())) == same


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


def test_callable_reward_scores_items_and_names_function_and_line_of_an_error() -> None:
    items = [ScoreItem("37|b1>e4=", text) for text in ("a", "b", "x")]
    reward = plan_reward(spec_of(cell()), HiddenTrapGridSpec()).build()
    assert [score.score for score in reward.score(items)] == [0.5, 1.0, None]
    again, other = (
        plan_reward(spec_of(cell(source)), HiddenTrapGridSpec()).build()
        for source in (CELL, CELL.replace("0.5", "0.25"))
    )
    assert reward.version == again.version != other.version and reward.name == "python/reward"
    function = cell("def reward(items):\n    return [1 / 0]\n", "/x/cell.py")
    (score,) = plan_reward(spec_of(function), HiddenTrapGridSpec()).build().score(items[:1])
    assert score.score is None and score.error is not None
    assert "ZeroDivisionError" in score.error and "/x/cell.py:2" in score.error


def test_callable_that_cannot_be_shipped_or_loaded_is_refused() -> None:
    spec = CallableRewardSpec(name="make.<locals>.reward", sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"make\.<locals>\.reward .*reward=reward.*reward\.path"):
        plan_reward(spec, HiddenTrapGridSpec())  # a function of another process
    text = base64.b64encode(pickle.dumps(Path("x")).replace(b"pathlib", b"nowhere")).decode()
    with pytest.raises(RewardError, match="ModuleNotFoundError"):
        load_function(spec, text)
    with pytest.raises(ConfigError, match=f"limit of {MAX_PICKLE_MIB} MiB"):
        offer("0" * 64, bytes(MAX_PICKLE_MIB * 2**20 + 1))
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        sha256(lambda items: lock)
