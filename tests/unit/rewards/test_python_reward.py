"""A user's reward function: accepted answers, unscored garbage, errors with the user's lines."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from polyray.errors import ConfigError, RewardError
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.python_function import PythonReward, compile_function, load_reward_source
from polyray.tasks.base import class_id
from polyray.types import WRONG_CLASS
from tests.unit.rewards.fake_task import FakeTask


def built(source: str, path: str = "user_reward.py:score") -> PythonReward:
    return PythonReward(compile_function(path, source), FakeTask())


def score(body: str, *completions: str) -> list[Score]:
    return built(f"def score(items):\n    {body}\n").score([ScoreItem("p", text) for text in completions])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [0.25, 1, True]", [Score(0.25, 77), Score(1.0, 77), Score(1.0, 77)]),
        (
            "import numpy as np; return [np.float32(0.5), np.int64(0), np.bool_(True)]",
            [Score(0.5, 77), Score(0.0, 77), Score(1.0, 77)],
        ),
        ("import numpy as np; return np.array([0.5, 0.0])", [Score(0.5, 77), Score(0.0, 77)]),
        (
            "return [{'score': 1, 'class': 5, 'components': {'style': 3, 'none': None}}, "
            "{'score': 0.5, 'class': 'red'}, {'score': 0, 'class': -1}]",
            [Score(1.0, 5, {"style": 3.0}), Score(0.5, class_id("red")), Score(0.0, WRONG_CLASS)],
        ),
        ("print('scoring', len(items)); return [0.5]", [Score(0.5, 77)]),
    ],
)
def test_python_reward_reads_numbers_and_dicts(body: str, expected: list[Score]) -> None:
    assert score(body, *"abc"[: len(expected)]) == expected


def test_python_reward_function_sees_every_field_and_cannot_change_the_item() -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: float\n\n"
        "def score(items):\n"
        "    item = items[0]\n"
        "    assert item.pop('messages') == [{'role': 'user', 'content': 'q'}]\n"
        "    assert item == {'prompt': 'q', 'completion': 'a', 'reference': 'r', 'metadata': {'n': 1}}\n"
        "    item['metadata'].clear()\n"
        "    return [Point(1.0).x]\n"
    )
    item = ScoreItem("q", "a", "r", {"n": 1}, ({"role": "user", "content": "q"},))
    assert built(source).score([item]) == [Score(1.0, 77)]
    assert item.metadata == {"n": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [0.1, 0.2]", "user_reward.py:score returned 2 entries for 1 items"),
        ("return 0.5", "a float; return a list"),
        ("return None", "NoneType"),
        ("return ['0.5']", "a score as a str (0.5)"),
        ("return [float('nan')]", "score nan"),
        ("return [2]", "score 2.0"),
        ("return [None]", "no score"),
        ("return [{'scores': 1}]", "the keys ['scores']"),
        ("return [{'score': 1, 'class': 1.5}]", "a class as a float"),
        ("return [{'score': 1, 'class': -2}]", "class -2"),
        ("return [{'score': 1, 'components': {'a': 'b'}}]", "component 'a' as a str"),
        ("return [{'score': 1, 'components': {'a': float('inf')}}]", "component a=inf"),
        ("return [10**400]", "too large"),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
    ],
)
def test_python_reward_garbage_is_unscored_with_the_reason(body: str, message: str) -> None:
    (result,) = score(body, "a")
    assert result.score is None and result.class_id == WRONG_CLASS
    assert result.error is not None and message in result.error


def test_python_reward_exception_shows_the_users_own_lines() -> None:
    source = "def helper(text):\n    return 1 / len(text)\n\ndef score(items):\n    return [helper('')]\n"
    (result,) = built(source, "rewards/mine.py:score").score([ScoreItem("p", "a")])
    lines = [line for line in (result.error or "").splitlines() if not set(line) <= set(" ^~")]
    assert re.search(r"rewards/mine\.py:score .*ZeroDivisionError: .*rewards/mine\.py:2$", lines[0])
    assert lines[1:] == [
        '  File "rewards/mine.py", line 5, in score',
        "    return [helper('')]",
        '  File "rewards/mine.py", line 2, in helper',
        "    return 1 / len(text)",
    ]
    (result,) = score("raise ValueError(items[0]['completion'])", "\ud800")
    assert result.error is not None and "\\ud800" in result.error.encode().decode()


def test_python_reward_failing_completion_is_isolated_within_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = score("return [1 / len(item['completion']) for item in items]", "a", "bb", "", "dddd", "a")
    assert [result.score for result in results] == [1.0, 0.5, None, 0.25, 1.0]
    assert score("raise ValueError('called')") == []
    monkeypatch.setattr("polyray.rewards.python_function.ISOLATION_BUDGET_S", 0.05)
    started = time.monotonic()
    results = score("import time; time.sleep(0.03); raise ValueError('down')", *"abcdefghijklmnop" * 4)
    assert time.monotonic() - started < 0.6  # 127 calls would take 4 s
    assert all(result.score is None and "ValueError: down" in str(result.error) for result in results)


def test_python_reward_distances_are_the_tasks_and_zero_to_an_unscored_completion() -> None:
    reward = built("def score(items):\n    return [1, 0, None]\n")
    items = [ScoreItem("p", text) for text in "abc"]
    matrix = reward.distances(items, reward.score(items))
    np.testing.assert_array_equal(matrix, [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])


def test_python_reward_version_follows_its_source() -> None:
    zero, one, again = (built(f"def score(items):\n    return [{value}]\n").version for value in (0, 1, 0))
    assert zero == again != one


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there_at_all\ndef score(items): ...", r"user_reward\.py .*ModuleNotFoundError"),
        ("score = 3", r"user_reward\.py: 'score' .*\bint\b"),
    ],
)
def test_python_reward_code_that_cannot_run_is_an_error(source: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        built(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit\ndef score(items): ...\n", None),
        ("def scores(items): ...", r"'score'.*mine\.py:scores"),
        ("", "'score'"),
        ("def score(:", r"mine\.py, line 1\b"),
    ],
)
def test_reward_source_is_read_without_running_it(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    if message is None:
        assert load_reward_source(f"{path}:score") == text
    else:
        with pytest.raises(ConfigError, match=message):
            load_reward_source(f"{path}:score")
