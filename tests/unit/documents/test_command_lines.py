"""Every command of the documents is one that its job takes: options exist, files load, overrides fit."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

import polyray.cli.arguments
from polyray.cli.__main__ import COMMANDS
from polyray.cli.arguments import JobParser
from polyray.errors import ConfigError, MissingFile
from tests.unit.documents.document_text import DOCUMENTS, ROOT, command_lines, commands_of, main_of, read

CHECKED = {"pretrain", "quickstart", "sft", "sweep", "train"}
"""Jobs whose --check is quick; of the others the command line and the file are tried."""
WRITTEN_BY_THE_READER = {"train.yaml": "configs/own_task/embedded/train.yaml"}
CONFIG = "CONFIG key=value"


class Understood(Exception):
    """The command line was taken apart, and its file loaded."""


def understand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make jobs stop at the point where work would begin."""
    parse_strictly, load_config = JobParser.parse_strictly, polyray.cli.arguments.load_config

    def parsed(self: JobParser, argv: Sequence[str] | None = None) -> Any:
        namespace = parse_strictly(self, argv)
        if any(action.metavar == CONFIG for action in self._actions):
            return namespace
        raise Understood

    def loaded(*arguments: Any) -> NoReturn:
        load_config(*arguments)
        raise Understood

    monkeypatch.setattr(JobParser, "parse_strictly", parsed)
    monkeypatch.setattr(polyray.cli.arguments, "load_config", loaded)


def take(monkeypatch: pytest.MonkeyPatch, job: str, given: list[str]) -> None:
    """Parse a command line; a job's name alone is a mention."""
    assert job in (*COMMANDS, "benchmarks")
    if not given:
        return
    monkeypatch.chdir(ROOT)
    given = [WRITTEN_BY_THE_READER.get(word, word) for word in given]
    main = main_of(job)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):  # of --help
        if job in CHECKED:
            with contextlib.suppress(MissingFile):  # of an earlier command, or of the reader's
                assert main(["--check", *(word for word in given if word != "--check")]) == 0
        else:
            understand(monkeypatch)
            with contextlib.suppress(Understood):
                main(given)


def lines() -> list[Any]:
    found = [(document, *line) for document in DOCUMENTS for line in command_lines(read(document))]
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        comments = [line.partition("#")[2] for line in file.read_text(encoding="utf-8").splitlines()]
        found += [(str(file.relative_to(ROOT)), *line) for line in commands_of(comments)]
    first = {(job, *given): (document, job, given) for document, job, given in reversed(found)}
    return [
        pytest.param(job, given, id=f"{document}: {job} {' '.join(given)}")
        for document, job, given in reversed(first.values())
    ]


@pytest.mark.parametrize(("job", "given"), lines())
def test_command_line_of_a_document_is_accepted(
    monkeypatch: pytest.MonkeyPatch, job: str, given: list[str]
) -> None:
    take(monkeypatch, job, given)


@pytest.mark.parametrize(
    ("job", "given", "expected"),
    [
        ("train", ["configs/train/math.yaml", "learner.stepz=3"], "learner.stepz"),
        ("train", ["configs/train/nowhere.yaml"], r"nowhere\.yaml"),
        ("judge", ["configs/judge/pairwise.yaml", "nothing=1"], "'nothing'"),
        ("report", ["runs/x", "--ouch", "y"], "--ouch"),
        ("benchmarks", ["gpu", "--stepz", "3"], "--stepz"),
        ("analyze", ["lora", "runs/x"], "--out"),
        ("curate", ["selections", "runs/x.db", "--since-when", "y"], "--since-when"),
        ("evaluate", ["score", "x.jsonl", "--tusk", "code"], "unknown argument --tusk"),
    ],
)
def test_wrong_command_line_is_refused(
    monkeypatch: pytest.MonkeyPatch, job: str, given: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        take(monkeypatch, job, given)
