"""A user's reward function: what it may return, and what becomes of what it should not."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from polyray.errors import ConfigError, RewardError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.python_function import PythonReward, compile_function, load_reward_source
from polyray.tasks.base import class_id
from polyray.types import WRONG_CLASS, Prompt


class ConstantTask:
    def reward(self, prompt: Prompt, completion: str) -> float:
        raise AssertionError("a Python reward does not ask the task for rewards")

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return 77

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        return [77] * len(completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return 0.5


def built(path: str, source: str) -> PythonReward:
    return PythonReward(compile_function(path, source), ConstantTask())


def score(body: str, *completions: str) -> list[Score]:
    source = f"def score(items):\n    {body}\n"
    reward = built("user_reward.py:score", source)
    return reward.score([ScoreItem("p", completion) for completion in completions])


def test_numbers_of_all_kinds_are_scores_with_the_tasks_class():
    values = "import numpy as np; return [0.25, 1, True, np.float32(0.5), np.int64(0), np.bool_(True)]"
    assert score(values, *"abcdef") == [Score(value, 77, {}) for value in (0.25, 1.0, 1.0, 0.5, 0.0, 1.0)]
    assert score("import numpy as np; return np.array([0.5, 0.0])", "a", "b") == [
        Score(0.5, 77),
        Score(0.0, 77),
    ]


def test_a_dict_may_hold_class_and_components():
    (first, second, third) = score(
        "return [{'score': 1, 'class': 5, 'components': {'style': 3, 'none': None}}, "
        "{'score': 0.5, 'class': 'red'}, {'score': 0, 'class': -1}]",
        *"abc",
    )
    assert first == Score(1.0, 5, {"style": 3.0})
    assert second == Score(0.5, class_id("red"), {})
    assert third == Score(0.0, WRONG_CLASS, {})


def test_the_function_sees_every_field_and_cannot_change_ours():
    source = (
        "def score(items):\n"
        "    item = items[0]\n"
        "    assert item.pop('messages') == [{'role': 'user', 'content': 'q'}]\n"
        "    assert item == {'prompt': 'q', 'completion': 'a', 'reference': 'r', 'metadata': {'n': 1}}\n"
        "    item['metadata'].clear()\n"
        "    return [1.0]\n"
    )
    item = ScoreItem("q", "a", "r", {"n": 1}, ({"role": "user", "content": "q"},))
    assert built("f.py:score", source).score([item]) == [Score(1.0, 77)]
    assert item.metadata == {"n": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [0.1, 0.2]", "reward function user_reward.py:score returned 2 entries for 1 items"),
        ("return 0.5", "returned a float; return a list with one entry per item"),
        ("return None", "returned a NoneType"),
        ("return ['0.5']", "returned a score as a str (0.5); return a float"),
        ("return [float('nan')]", "gave score nan, which is not a finite number in [0, 1]"),
        ("return [2]", "gave score 2.0, which is not a finite number in [0, 1]"),
        ("return [None]", "gave no score for this completion"),
        ("return [{'scores': 1}]", "returned a dict with the keys ['scores']"),
        ("return [{'score': 1, 'class': 1.5}]", "returned a class as a float"),
        ("return [{'score': 1, 'class': -2}]", "gave class -2"),
        ("return [{'score': 1, 'components': {'a': 'b'}}]", "returned component 'a' as a str"),
        ("return [{'score': 1, 'components': {'a': float('inf')}}]", "gave component a=inf"),
        ("return [10**400]", "too large"),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
    ],
)
def test_garbage_leaves_the_item_unscored_and_says_why(body: str, message: str):
    (result,) = score(body, "a")
    assert result.score is None and result.class_id == WRONG_CLASS
    assert result.error is not None and message in result.error


def test_an_exception_is_shown_with_the_users_own_lines():
    source = "def helper(text):\n    return 1 / len(text)\n\ndef score(items):\n    return [helper('')]\n"
    reward = built("rewards/mine.py:score", source)
    (result,) = reward.score([ScoreItem("p", "a")])
    lines = [line for line in (result.error or "").splitlines() if not set(line) <= set(" ^~")]
    assert re.search(r"rewards/mine\.py:score .*ZeroDivisionError: .*rewards/mine\.py:2$", lines[0])
    assert lines[1:] == [
        '  File "rewards/mine.py", line 5, in score',
        "    return [helper('')]",
        '  File "rewards/mine.py", line 2, in helper',
        "    return 1 / len(text)",
    ]


def test_prints_of_a_reward_function_change_no_score(capfd: pytest.CaptureFixture[str]) -> None:
    (result,) = score("print('scoring', len(items)); return [0.5]", "a")
    assert result.score == 0.5
    assert capfd.readouterr().out == "scoring 1\n"


def test_one_bad_completion_does_not_unscore_its_neighbours():
    body = "return [1 / len(item['completion']) for item in items]"
    results = score(body, "a", "bb", "", "dddd", "a")
    assert [result.score for result in results] == [1.0, 0.5, None, 0.25, 1.0]


def test_looking_for_the_bad_completion_ends_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("polyray.rewards.python_function.ISOLATION_BUDGET_S", 0.05)
    started = time.monotonic()
    results = score("import time; time.sleep(0.03); raise ValueError('down')", *"abcdefghijklmnop" * 4)
    assert time.monotonic() - started < 0.6  # 127 calls would take 4 s
    assert all(result.score is None and "ValueError: down" in str(result.error) for result in results)


def test_text_that_is_no_unicode_is_an_error_that_can_be_sent():
    (result,) = score("raise ValueError(items[0]['completion'])", "\ud800")
    assert result.error is not None and "\\ud800" in result.error.encode().decode()


def test_no_items_no_call():
    assert score("raise ValueError('called')") == []


def test_dataclasses_in_the_users_file_work():
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: float\n\ndef score(items):\n    return [Point(0.5).x]\n"
    )
    assert built("f.py:score", source).score([ScoreItem("p", "a")]) == [Score(0.5, 77)]


def test_distances_are_the_tasks_and_zero_to_an_unscored_completion():
    reward = PythonReward(
        compile_function("f.py:score", "def score(items):\n    return [1, 0, None]\n"), ConstantTask()
    )
    items = [ScoreItem("p", text) for text in "abc"]
    matrix = reward.distances(items, reward.score(items))
    np.testing.assert_array_equal(matrix, [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])


def test_the_version_follows_the_source():
    versions = [
        PythonReward(
            compile_function("f.py:score", f"def score(items):\n    return [{value}]\n"), ConstantTask()
        ).version
        for value in (0, 1, 0)
    ]
    assert versions[0] == versions[2] != versions[1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there_at_all\ndef score(items): ...", r"f\.py .*ModuleNotFoundError"),
        ("score = 3", r"f\.py: 'score' .*\bint\b"),
    ],
)
def test_code_that_cannot_run_is_a_reward_error(source: str, message: str):
    with pytest.raises(RewardError, match=message):
        built("f.py:score", source)


def test_loading_reads_the_text_and_runs_nothing(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit\ndef score(items): ...\n")
    assert load_reward_source(f"{file}:score") == "raise SystemExit\ndef score(items): ...\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def scores(items): ...", r"'score'.*mine\.py:scores"),
        ("", "'score'"),
        ("def score(:", r"mine\.py, line 1\b"),
    ],
)
def test_a_missing_function_is_a_config_error(tmp_path: Path, text: str, message: str):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_reward_source(f"{tmp_path / 'mine.py'}:score")
