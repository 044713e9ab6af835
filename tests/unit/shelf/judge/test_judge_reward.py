"""JudgeReward against a real endpoint on this machine; replicas are processes that share one file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polyray.config.judge import JudgeSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.config.text_reward import JudgeRewardSpec
from polyray.errors import ConfigError
from polyray.rewards import plan_reward
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


@contextmanager
def reward(server: JudgeServer, directory: Path, **judge: Any) -> Generator[JudgeReward, None, None]:
    spec = JudgeRewardSpec(judge=server.spec(**judge), cache_path=str(directory / "answers.jsonl"))
    judged = JudgeReward(spec, OneClass())
    yield judged
    judged.close()


def items(*texts: str) -> list[ScoreItem]:
    return [ScoreItem("a prompt", text) for text in texts]


def test_judge_reward_has_the_rubric_as_score_and_asks_once(tmp_path: Path) -> None:
    def judge(asked: Any) -> dict[str, Any]:
        return counts_words(asked) | {"coherence": 5}

    with JudgeServer(judge) as server:
        with reward(server, tmp_path, criteria=["relevance", "coherence"]) as judged:
            scores = judged.score(items("one", "one two three", "one"))
        assert scores[0] == Score(0.5, 7, {"relevance": 0.0, "coherence": 1.0}) == scores[2]
        assert scores[1] == Score(0.75, 7, {"relevance": 0.5, "coherence": 1.0})
        assert len(server.asked) == 2
        with reward(server, tmp_path, criteria=["relevance", "coherence"]) as again:
            assert again.score(items("one")) == [scores[0]]
        assert len(server.asked) == 2
    assert judged.name == "judge/openai/m" and not judged.deterministic and not judged.inline


def test_judge_reward_never_gives_zero_to_an_unjudged_completion(tmp_path: Path) -> None:
    def judge(asked: Any) -> Any:
        return "I would rather not." if "bad" in asked.texts["candidate"] else counts_words(asked)

    with JudgeServer(judge) as server, reward(server, tmp_path, max_retries=0) as judged:
        bad, good = judged.score(items("bad", "a b c d e"))
    assert (bad.score, bad.class_id) == (None, WRONG_CLASS)
    assert "judge/openai/m: " in str(bad.error)
    assert good.score == 1.0
    absent = JudgeServer(lambda asked: Reply("no such model", status=404))
    with absent as server, reward(server, tmp_path / "absent") as judged:
        scores = judged.score(items("a", "b"))
    assert all(score.score is None and "judge.model='m'" in str(score.error) for score in scores)


def test_judge_reward_replicas_share_answers_and_budget(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"concurrency": 1, "budget": {"max_tokens": 330}}  # 110 tokens each
    with (
        JudgeServer(counts_words) as server,
        reward(server, tmp_path, **settings) as one,
        reward(server, tmp_path, **settings) as other,
    ):
        assert one.score(items("a", "a b"))[1].score == 0.25
        assert other.score(items("a b"))[0].score == 0.25
        assert len(server.asked) == 2
        scored, *refused = other.score(items("a b c", "a b c d", "z"))
        refused += one.score(items("x y"))
        assert len(server.asked) == 3
    assert scored.score == 0.5
    assert all(score.score is None and "judge.budget.max_tokens=330" in str(score.error) for score in refused)


WRITER = """
import sys
from pathlib import Path
from polyray.shelf.judge.providers import ChatAnswer
from polyray.shelf.judge.shared_cache import SharedAnswerCache
cache = SharedAnswerCache(Path(sys.argv[1]))
for at in range(200):
    cache.put(f"{sys.argv[2]}-{at}", ChatAnswer("x" * (at * 37 % 5000), "stop", 1, 0, 1))
"""


def test_shared_cache_loses_no_answer_of_concurrent_writers(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with SharedAnswerCache(file) as cache:
        command = [sys.executable, "-c", WRITER, str(file)]
        writers = [subprocess.Popen([*command, name]) for name in ("one", "other")]
        assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
        assert cache.paid_elsewhere() == Usage(400, 400, 0, 400)
        assert cache.paid_elsewhere() == Usage()
        for name in ("one", "other"):
            answer = cache.get(f"{name}-123")
            assert answer is not None and len(answer.text) == 123 * 37 % 5000
    assert len(file.read_text().splitlines()) == 400


def test_shared_cache_cuts_off_the_end_of_a_dead_writer(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with SharedAnswerCache(file) as one, SharedAnswerCache(file) as other:
        one.put("first", ANSWER)
        with file.open("ab") as torn:
            torn.write(b'{"key": "half')
        assert other.get("half") is None and other.get("first") == ANSWER
        other.put("second", ANSWER)
        assert one.get("second") == ANSWER
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["first", "second"]


def test_judge_reward_without_its_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = JudgeSpec(provider="openai", model="m", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        plan_reward(JudgeRewardSpec(judge=judge), HiddenTrapGridSpec())
