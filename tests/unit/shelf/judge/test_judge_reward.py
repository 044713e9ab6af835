"""JudgeReward against a real endpoint on this machine; replicas are processes that share one file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polyray.config.text_reward import JudgeRewardSpec
from polyray.rewards.base import Score, ScoreItem
from polyray.shelf.judge.items import Usage
from polyray.shelf.judge.providers import ChatAnswer
from polyray.shelf.judge.reward import JudgeReward
from polyray.shelf.judge.shared_cache import SharedAnswerCache
from polyray.types import WRONG_CLASS, Prompt
from tests.unit.shelf.judge.judge_server import JudgeServer, Reply, counts_words

ANSWER = ChatAnswer("{}", "stop", 100, 40, 10)


class OneClass:
    def reward(self, prompt: Prompt, completion: str) -> float:
        raise AssertionError("a judge's reward does not ask the task for rewards")

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return 7

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        return [7] * len(completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return 0.0


def reward(server: JudgeServer, directory: Path, **judge: Any) -> JudgeReward:
    spec = JudgeRewardSpec(judge=server.spec(**judge), cache_path=str(directory / "answers.jsonl"))
    return JudgeReward(spec, OneClass())


def items(*texts: str) -> list[ScoreItem]:
    return [ScoreItem("a prompt", text) for text in texts]


def test_the_rubric_is_the_score_and_its_criteria_are_components(tmp_path: Path) -> None:
    def judge(asked: Any) -> dict[str, Any]:
        return counts_words(asked) | {"coherence": 5}

    with JudgeServer(judge) as server:
        judged = reward(server, tmp_path, criteria=["relevance", "coherence"])
        scores = judged.score(items("one", "one two three", "one"))
        judged.close()
        assert scores[0] == Score(0.5, 7, {"relevance": 0.0, "coherence": 1.0}) == scores[2]
        assert scores[1] == Score(0.75, 7, {"relevance": 0.5, "coherence": 1.0})
        assert len(server.asked) == 2  # equal items are asked once
        again = reward(server, tmp_path, criteria=["relevance", "coherence"])
        assert again.score(items("one")) == [scores[0]]
        again.close()
        assert len(server.asked) == 2
    assert judged.name == "judge/openai/m" and not judged.deterministic and not judged.inline


def test_unjudged_completion_is_unscored_and_never_zero(tmp_path: Path) -> None:
    def judge(asked: Any) -> Any:
        return "I would rather not." if "bad" in asked.texts["candidate"] else counts_words(asked)

    with JudgeServer(judge) as server:
        judged = reward(server, tmp_path, max_retries=0)
        bad, good = judged.score(items("bad", "a b c d e"))
        judged.close()
    assert (bad.score, bad.class_id) == (None, WRONG_CLASS)
    assert "judge/openai/m: " in str(bad.error)
    assert good.score == 1.0


def test_a_reached_budget_leaves_the_rest_unscored_with_the_reason(tmp_path: Path) -> None:
    with JudgeServer(counts_words) as server:
        judged = reward(server, tmp_path, concurrency=1, budget={"max_tokens": 330})
        first = judged.score(items("a", "a b", "a b c", "a b c d"))
        later = judged.score(items("x y", "z"))
        judged.close()
        assert len(server.asked) == 3  # 110 tokens each
    assert [score.score for score in first] == [0.0, 0.25, 0.5, None]
    assert all("judge.budget.max_tokens=330" in str(score.error) for score in [first[3], *later])
    assert [score.score for score in later] == [None, None]


def test_an_endpoint_that_refuses_for_good_unscores_instead_of_raising(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Reply("no such model", status=404)) as server:
        judged = reward(server, tmp_path)
        scores = judged.score(items("a", "b"))
        judged.close()
    assert all(score.score is None and "judge.model='m'" in str(score.error) for score in scores)


def test_two_replicas_share_answers_and_budget(tmp_path: Path) -> None:
    with JudgeServer(counts_words) as server:
        settings: dict[str, Any] = {"concurrency": 1, "budget": {"max_tokens": 330}}
        one, other = reward(server, tmp_path, **settings), reward(server, tmp_path, **settings)
        assert one.score(items("a", "a b"))[1].score == 0.25
        assert other.score(items("a b"))[0].score == 0.25
        assert len(server.asked) == 2
        assert other.score(items("a b c"))[0].score == 0.5
        (refused,) = one.score(items("a b c d"))
        assert refused.score is None and "330 of judge.budget.max_tokens=330" in str(refused.error)
        one.close()
        other.close()
        assert len(server.asked) == 3


WRITER = """
import sys
from pathlib import Path
from polyray.shelf.judge.providers import ChatAnswer
from polyray.shelf.judge.shared_cache import SharedAnswerCache
cache = SharedAnswerCache(Path(sys.argv[1]))
for at in range(200):
    cache.put(f"{sys.argv[2]}-{at}", ChatAnswer("x" * (at * 37 % 5000), "stop", 1, 0, 1))
"""


def test_concurrent_writers_lose_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with SharedAnswerCache(file) as cache:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(file), name]) for name in ("one", "other")
        ]
        assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
        assert cache.paid_elsewhere() == Usage(400, 400, 0, 400)
        assert cache.paid_elsewhere() == Usage()
        for name in ("one", "other"):
            answer = cache.get(f"{name}-123")
            assert answer is not None and len(answer.text) == 123 * 37 % 5000
    assert len(file.read_text().splitlines()) == 400


def test_the_end_of_a_writer_that_died_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with SharedAnswerCache(file) as one, SharedAnswerCache(file) as other:
        one.put("first", ANSWER)
        with file.open("ab") as torn:
            torn.write(b'{"key": "half')
        assert other.get("half") is None and other.get("first") == ANSWER
        other.put("second", ANSWER)
        assert one.get("second") == ANSWER
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["first", "second"]


def test_without_its_key_a_judge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polyray.config.task import HiddenTrapGridSpec
    from polyray.errors import ConfigError
    from polyray.rewards import plan_reward

    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with JudgeServer(counts_words) as server:
        spec = JudgeRewardSpec(judge=server.spec(api_key_env="NO_SUCH_KEY"))
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        plan_reward(spec, HiddenTrapGridSpec())
