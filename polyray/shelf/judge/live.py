"""A judge that works while samples are still being drawn: groups in, judgements.jsonl and summary.json out.

    evaluation --feed(group)--> items --queue--> JudgeRunner, in threads --> judgements.jsonl
                                                                finish() --> summary.json

Items come in the order of samples.jsonl, so a killed evaluation resumes with the same rows. An error that stops the
judge (a budget, a refused key) does not stop the sampling: `finish` raises it when everything else is written. Called
by polyray/evaluation/pipeline.py.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from polyray.config.judge import ANSWERS_FILE, JudgingSpec
from polyray.config.run import EvaluateConfig
from polyray.errors import BudgetReached
from polyray.evaluation.records import SampleRecord
from polyray.runs.atomic import atomic_write_json
from polyray.shelf.judge import from_samples
from polyray.shelf.judge.items import JudgeItem, Judgement
from polyray.shelf.judge.log import JUDGEMENTS_FILE, JudgementLog
from polyray.shelf.judge.runner import JudgeRunner, UnjudgedGuard
from polyray.shelf.judge.summary import Intervals, summarise

WAITING_ITEMS = 1024
"""Items that may wait for the judge; at this number sampling waits, so that memory stays flat."""
SUMMARY_FILE = "summary.json"


class LiveJudge:
    """One evaluation's judge; feed it every group once, in the order of samples.jsonl, then `finish`."""

    def __init__(
        self, spec: JudgingSpec, directory: Path, owner: str, baseline: str, intervals: Intervals
    ) -> None:
        """Starts the judge. Raises ConfigError where its key is not set."""
        self._spec = spec
        self._directory = directory
        self._baseline = baseline
        self._intervals = intervals
        self._waiting: queue.Queue[JudgeItem | None] = queue.Queue(WAITING_ITEMS)
        self._of_baseline: dict[str, Sequence[SampleRecord]] = {}
        self._early: dict[str, list[Sequence[SampleRecord]]] = {}
        self._num_items = 0
        self._rows: list[Judgement] = []
        self._failure: BaseException | None = None
        self._guard = UnjudgedGuard(spec.judge.max_unjudged_share)
        directory.mkdir(parents=True, exist_ok=True)
        self._runner = JudgeRunner(
            spec.judge, spec.mode, directory / ANSWERS_FILE, owner=owner, guard=self._guard
        )
        self._thread = threading.Thread(target=self._work, name="judgements", daemon=True)
        self._thread.start()

    def feed(self, samples: Sequence[SampleRecord]) -> None:
        """The samples of one prompt by one model."""
        for item in self._items(samples):
            self._num_items += 1
            if self._failure is None:
                self._waiting.put(item)

    def finish(self) -> None:
        """Waits for the last answer and writes summary.json; raises what stopped the judge."""
        self._waiting.put(None)
        self._thread.join()
        status = "complete" if self._failure is None else "stopped"
        if isinstance(self._failure, BudgetReached):
            status = "budget"
        head = {"status": status, "n_planned": self._num_items, "spent": self._runner.spent.as_row()}
        self.close()
        atomic_write_json(self._directory / SUMMARY_FILE, head | summarise(self._rows, self._intervals))
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the judge's threads in any state; a second call does nothing."""
        if self._thread.is_alive() and not self._waiting.full():
            self._waiting.put(None)
        self._runner.close()

    def _items(self, samples: Sequence[SampleRecord]) -> Iterator[JudgeItem]:
        chosen = {samples[0].model: {samples[0].task_id: samples}}
        count = self._spec.samples_per_prompt
        if self._spec.mode == "rubric":
            yield from from_samples.rubric_items(chosen, count or 1)
        elif self._spec.mode == "cluster":
            yield from from_samples.cluster_items(chosen, count)
        else:
            yield from self._pairs(samples, count or 1)

    def _pairs(self, samples: Sequence[SampleRecord], count: int) -> Iterator[JudgeItem]:
        """Pairs as soon as both sides are there: the baseline may not be the first that is sampled."""
        group, task_id = samples[:count], samples[0].task_id
        if group[0].model == self._baseline:
            self._of_baseline[task_id] = group
            others = self._early.pop(task_id, [])
        elif task_id in self._of_baseline:
            others = [group]
        else:
            self._early.setdefault(task_id, []).append(group)
            others = []
        for other in others:
            both = {
                self._baseline: {task_id: self._of_baseline[task_id]},
                other[0].model: {task_id: other},
            }
            yield from from_samples.pair_items(both, self._baseline, count)

    def _work(self) -> None:
        try:
            with JudgementLog(self._directory / JUDGEMENTS_FILE) as log:
                self._rows = list(log.kept)
                for row in self._rows:
                    self._guard.count(row)
                items = iter(self._waiting.get, None)
                for judgement in self._runner.stream(log.missing(items, self._spec.mode, self._spec.judge)):
                    log.append(judgement)
                    self._rows.append(judgement)
        except BaseException as error:
            self._failure = error
            while self._waiting.get() is not None:  # the feeder must not wait for a judge that has stopped
                pass


def open_live_judge(config: EvaluateConfig, directory: Path) -> LiveJudge:
    """The judge that `judging` of an evaluation asks for. Raises ConfigError where its key is not set."""
    assert config.judging is not None  # the caller has looked
    spec = config.evaluation
    intervals = Intervals(spec.bootstrap_resamples, spec.confidence, config.seed)
    baseline = config.compare_to or next(iter(config.adapters))
    return LiveJudge(config.judging, directory, config.name, baseline, intervals)
