"""A judge as a quality checker or reward: texts in, numbers out.

    JudgeQuality.score_many([(prompt, text), ...]) -> [quality in [0, 1] or None, ...]

None is unjudged: the caller counts it as unscored, never as zero. The runner stays open and each batch blocks until
it is answered; batches of several threads come one after the other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from polyray.config.judge import JudgeSpec
from polyray.config.run import EvaluateConfig
from polyray.evaluation.checkers import QualityOf
from polyray.shelf.judge.items import Candidate, JudgeItem, Judgement, RubricItem, Usage
from polyray.shelf.judge.runner import JudgeRunner, UnjudgedGuard
from polyray.types import Prompt


class JudgeQuality:
    """The rubric's quality of a text: the mean over the criteria, in [0, 1]. A context manager."""

    def __init__(self, spec: JudgeSpec, cache_path: Path, **options: Any) -> None:
        """`options` are those of JudgeRunner. Unjudged items stop nothing here: the caller has its own limit."""
        options.setdefault("guard", UnjudgedGuard(max_share=1.0))
        self._runner = JudgeRunner(spec, "rubric", cache_path, **options)
        self._one_batch = threading.Lock()
        self._asked = 0
        self.unjudged: list[str] = []
        """The reasons, in order."""

    def __enter__(self) -> JudgeQuality:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def spent(self) -> Usage:
        """Usage paid so far."""
        return self._runner.spent

    def close(self) -> None:
        """Ends the runner."""
        self._runner.close()

    def _judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        with self._one_batch:
            for item in items:
                self._runner.submit(item)
            results = self._runner.results()
            judgements = [next(results) for _ in items]
        self.unjudged += [row.reason or "" for row in judgements if not row.judged]
        return judgements

    def _id(self) -> str:
        self._asked += 1
        return str(self._asked)

    def score_many(self, items: Sequence[tuple[str, str]]) -> list[float | None]:
        """Qualities of (prompt, text) pairs, in order; None where unjudged. Raises BudgetReached and JudgeError."""
        asked = [RubricItem(self._id(), "", prompt, "", Candidate(text)) for prompt, text in items]
        return [float(row.result["quality"]) if row.judged else None for row in self._judge(asked)]


@contextmanager
def open_quality(config: EvaluateConfig, cache: Path) -> Iterator[QualityOf]:
    """The judge of an evaluation as a quality checker; NaN where it gives no answer."""
    assert config.judging is not None  # the configuration says so
    cache.parent.mkdir(parents=True, exist_ok=True)
    with JudgeQuality(config.judging.judge, cache, owner=config.name) as judge:

        def quality_of(items: Sequence[tuple[Prompt, str]]) -> list[float]:
            answers = judge.score_many([(prompt.text, text) for prompt, text in items])
            return [math.nan if answer is None else answer for answer in answers]

        yield quality_of
