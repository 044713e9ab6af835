"""An LLM judge as a reward: the mean of its rubric's criteria, in [0, 1], asked once per content and kept.

Its budget and its cache are those of polyray/shelf/judge, shared by all replicas of the service through one
file. An item that the judge did not judge is unscored with the reason; once the budget is reached, or the endpoint
refuses for good, every further item is. Criteria are components.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyray.config.reward import DiversitySpec
from polyray.config.text_reward import JudgeRewardSpec
from polyray.errors import JudgeError
from polyray.rewards.base import Judge, Score, ScoreItem, unscored
from polyray.rewards.distances import TASK_DISTANCE
from polyray.rewards.task_reward import TaskReward
from polyray.shelf.judge.items import Candidate, Judgement, RubricItem
from polyray.shelf.judge.runner import JudgeRunner, UnjudgedGuard
from polyray.shelf.judge.shared_cache import SharedAnswerCache


class JudgeReward(TaskReward):
    """Blocks until a batch is judged; batches of several threads come one after the other."""

    deterministic = False  # a judge may answer differently; what it said once is kept in its own cache

    def __init__(
        self,
        spec: JudgeRewardSpec,
        task: Judge,
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        """`options` are those of JudgeRunner. Raises ConfigError where the judge's key is not set."""
        super().__init__(task, f"judge/{spec.judge.name}", version, diversity, device)
        self._spec = spec
        self._runner = JudgeRunner(
            spec.judge,
            "rubric",
            Path(spec.cache_path),
            guard=UnjudgedGuard(max_share=1.0),  # the training loop has its own limit
            open_cache=SharedAnswerCache,
            **options,
        )
        self._one_batch = threading.Lock()
        self._numbers = itertools.count()
        self._stopped: str | None = None

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item."""
        with self._one_batch:
            judgements = self._judge(items)
        return [
            self._score_of(item, judgements[at]) if at < len(judgements) else unscored(str(self._stopped))
            for at, item in enumerate(items)
        ]

    def close(self) -> None:
        """Ends the judge's thread."""
        self._runner.close()

    def _judge(self, items: Sequence[ScoreItem]) -> list[Judgement]:
        """Judgements of the first items; of all unless the judge has stopped for good."""
        judgements: list[Judgement] = []
        if self._stopped is not None:
            return judgements
        for item in items:
            number = str(next(self._numbers))
            self._runner.submit(RubricItem(number, "", item.prompt, "", Candidate(item.completion)))
        results = self._runner.results()
        try:
            for _ in items:
                judgements.append(next(results))
        except JudgeError as error:
            self._stopped = f"{self.name}: {error}"
        return judgements

    def _score_of(self, item: ScoreItem, judgement: Judgement) -> Score:
        if not judgement.judged:
            return unscored(f"{self.name}: {judgement.reason}")
        scale = self._spec.judge.scale
        criteria = {name: scale.as_unit(score) for name, score in judgement.result["scores"].items()}
        return self._judged(item, float(judgement.result["quality"]), criteria)
