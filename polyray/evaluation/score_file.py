"""Scores a file of samples against a file of problems: results.jsonl and metrics.json, without Ray.

    SAMPLES + PROBLEMS --Scorer--> DIR/{samples.jsonl, results.jsonl} --scoring.py--> DIR/metrics.json

Results are appended in the order of the input; what an earlier call wrote for the same samples, problems and
settings is kept and taken up, and for others it is refused: results are never overwritten. Called by
`polyray evaluate score`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyray.errors import ConfigError
from polyray.evaluation.raw_samples import RawSample
from polyray.evaluation.sample_log import SampleLog
from polyray.evaluation.sampling import EvaluationFiles, result_of
from polyray.evaluation.scorers import StreamScorer
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.runs.atomic import atomic_write_json

MANIFEST = "score.json"
DEFAULT_KS = (1, 3, 5, 10, 100)
"""Default values of k, as far as every problem has enough samples."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Samples to score, and everything that determines their verdicts.

    Example:
        ScoreRequest(Path("samples.jsonl"), {"path": Path("HumanEval.jsonl.gz")}, {"task": "code", "timeout_s": 3.0})
    """

    samples: Path
    problems: Mapping[str, Path]
    """Key of the task's settings -> the file that it names."""
    settings: Mapping[str, Any]
    """Settings that could change a verdict."""
    pass_threshold: float = PASS_THRESHOLD


def score_stream(
    raw: Iterable[RawSample],
    scorer: StreamScorer,
    request: ScoreRequest,
    files: EvaluationFiles,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Appends what the files do not hold yet; returns how many samples they hold then.

    Raises ConfigError where the directory holds results of something else.
    """
    _claim(files.directory, request)
    with SampleLog(files.samples, files.results, num_samples=1) as log:
        todo = itertools.islice(raw, log.groups_done, None)
        ahead, behind = itertools.tee(todo)
        for sample, scored in zip(behind, scorer(ahead), strict=True):
            record = replace(sample.record, reward=scored.reward, class_id=scored.class_id)
            log.append([record], [result_of(record, scored, request.pass_threshold)])
            if progress is not None:
                progress(log.groups_done)
        return log.groups_done


def fitting_ks(counts: Iterable[int], wanted: Sequence[int] | None) -> tuple[int, ...]:
    """The wanted ks, or those of DEFAULT_KS that the fewest samples of any problem allow."""
    fewest = min(counts)
    if wanted is not None:
        return tuple(wanted)
    return tuple(k for k in DEFAULT_KS if k <= fewest)


def _claim(directory: Path, request: ScoreRequest) -> None:
    """The directory belongs to one request for ever."""
    mine = {
        "samples_sha256": _file_sha256(request.samples),
        "problems_sha256": {key: _file_sha256(file) for key, file in sorted(request.problems.items())},
        "settings": dict(request.settings),
    }
    manifest = directory / MANIFEST
    if manifest.is_file():
        theirs = json.loads(manifest.read_text(encoding="utf-8"))
        if theirs != mine:
            different = next(key for key in mine if theirs.get(key) != mine[key])
            raise ConfigError(
                f"--out {directory} holds results of other {different.replace('_sha256', '')} "
                f"({theirs.get(different)!r}, now {mine[different]!r}); results are never overwritten: give another "
                "directory"
            )
        return
    if any(directory.glob("*.jsonl")):
        raise ConfigError(
            f"--out {directory} holds results that `score` did not write; results are never overwritten: give "
            "another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    atomic_write_json(manifest, mine)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
