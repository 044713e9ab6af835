"""Paths of data files: the ones that ship with polyray, and the error for an absent one.

`builtin` names a small set that was written for polyray (polyray/data/builtin/), so that every domain runs
offline; everything else is a path. Nothing is ever downloaded. Called by the tasks.
"""

from __future__ import annotations

from pathlib import Path

from polyray.errors import MissingFile

BUILTIN = "builtin"
"""The `task.path` that means the set shipped with polyray."""

WHERE_TO_GET = {
    "code": (
        "HumanEval.jsonl.gz (https://github.com/openai/human-eval, MIT), mbpp.jsonl "
        "(https://github.com/google-research/google-research/tree/master/mbpp, CC BY 4.0), HumanEvalPlus.jsonl.gz "
        "or MbppPlus.jsonl.gz (releases of https://github.com/evalplus/humanevalplus_release and "
        "https://github.com/evalplus/mbppplus_release, Apache 2.0), or problems of your own in one of their formats"
    ),
    "math": (
        "GSM8K's train.jsonl and test.jsonl (grade_school_math/data of https://github.com/openai/grade-school-math, "
        "MIT), or problems of your own with the fields question and answer, which ends in '#### ' and a number"
    ),
    "question_answering": (
        "SQuAD's train and dev files (https://rajpurkar.github.io/SQuAD-explorer, CC BY-SA 4.0), Natural "
        "Questions' NQ-open files (https://github.com/google-research-datasets/natural-questions/tree/master/"
        "nq_open, CC BY-SA 3.0), or JSON Lines of your own with the fields question and answer, a list of texts"
    ),
    "social_replies": (
        "your own export as CSV or JSON Lines (prompt, reply, engagement or likes, ...; see "
        "polyray/data/social.py), or threads of a Stack Exchange site from its public data dump "
        "(https://archive.org/details/stackexchange, CC BY-SA) in the form of polyray/data/stack_exchange.py"
    ),
    "headlines": (
        "the Upworthy Research Archive (https://osf.io/jd64p, CC BY 4.0) as JSON Lines, or headline tests of "
        "your own in the same form; see polyray/data/headlines.py"
    ),
    "creative_writing": (
        "HANNA (https://github.com/dig-team/hanna-benchmark-asg, MIT) or your own prompts and stories as JSON "
        "Lines, NoveltyBench (https://github.com/novelty-bench/novelty-bench, data/*.jsonl, MIT), or ROCStories "
        "(CSV; its request form is at https://cs.rochester.edu/nlp/rocstories); see polyray/data/stories.py"
    ),
}
"""Task -> which data it reads and where that is to be had."""


def data_path(name: str, path: str, *, key: str = "task.path") -> Path:
    """The file behind `path` of task `name`. Raises MissingFile saying where to get it if it is absent."""
    if path == BUILTIN:
        return Path(__file__).parent / "builtin" / f"{name}.jsonl"
    found = Path(path).expanduser()
    if not found.is_file():
        raise MissingFile(
            f"{found}: no such file. {name} needs {WHERE_TO_GET[name]}. Then set {key} to the file, or to "
            f"{BUILTIN!r} for the small set that ships with polyray"
        )
    return found
