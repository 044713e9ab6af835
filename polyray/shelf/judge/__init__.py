"""Language models as judges: pairs in both orders, rubrics, strategies; cached, budgeted, resumable. No Ray.

    items.py         what is asked about, and a line of judgements.jsonl     from_samples.py  samples.jsonl -> items
    questions.py     prompts, markers around texts, JSON schemas             answers.py       text -> validated answer
    providers.py     one protocol; anthropic_provider.py, openai_provider.py behind it
    client.py        cache, budget, concurrency around a provider           cache.py  ledger.py
    judges.py        pairwise, rubric, cluster: an item -> a Judgement
    runner.py        judges in a thread: submit, results, stream       log.py           judgements.jsonl
    summary.py       win rates, position bias, means with intervals          agreement.py     with judges and people
    quality.py       a judge as a quality checker and as a source of diversity

Configured by polyray/config/judge.py; called by polyray judge, and by evaluation while samples still arrive.
"""

from __future__ import annotations

from polyray.shelf.judge.agreement import agreement, human_correlation
from polyray.shelf.judge.items import Candidate, ClusterItem, Judgement, PairItem, RubricItem, Usage
from polyray.shelf.judge.log import JudgementLog, read_judgements
from polyray.shelf.judge.quality import JudgeQuality
from polyray.shelf.judge.runner import JudgeRunner, UnjudgedGuard
from polyray.shelf.judge.summary import Intervals, summarise, summary_table

__all__ = [
    "Candidate",
    "ClusterItem",
    "Intervals",
    "JudgeQuality",
    "JudgeRunner",
    "Judgement",
    "JudgementLog",
    "PairItem",
    "RubricItem",
    "UnjudgedGuard",
    "Usage",
    "agreement",
    "human_correlation",
    "read_judgements",
    "summarise",
    "summary_table",
]
