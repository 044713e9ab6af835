"""The candidates behind the worst prompts of conditions.json: what the model wrote, and what the baseline did.

Called by results.py, which has the samples open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleSource

NUM_CANDIDATES = 4
MAX_CHARS = 2000
CUT = " [...]"


def with_candidates(entry: Mapping[str, Any], source: SampleSource, threshold: float) -> dict[str, Any]:
    """`conditions` of one evaluation with the prompt and candidates of both sides beside each loss.

    Candidates are of the samples that the prompt was not chosen on.
    """

    def shown(model: str, task_id: str) -> list[dict[str, Any]]:
        odd = [
            sample
            for sample in source.group(model, task_id)
            if sample.reward == sample.reward and sample.sample_index % 2 == 1
        ]
        return [_candidate(sample, threshold) for sample in odd[:NUM_CANDIDATES]]

    worst = {
        model: [
            {
                **prompt,
                "prompt": _cut(source.group(model, prompt["task_id"])[0].prompt),
                "candidates": {
                    name: shown(name, prompt["task_id"]) for name in (model, str(entry["baseline"]))
                },
            }
            for prompt in prompts
        ]
        for model, prompts in entry["worst"].items()
    }
    return {**entry, "worst": worst}


def _candidate(sample: SampleRecord, threshold: float) -> dict[str, Any]:
    return {"text": _cut(sample.completion), "passed": sample.reward >= threshold, "reward": sample.reward}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + CUT
