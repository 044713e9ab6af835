"""Names in documents exist: jobs, options, fields, metrics, errors, files, headings."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from polyray.cli.__main__ import COMMANDS
from polyray.config.curate import CurateConfig
from polyray.config.generation import GenerationServeConfig
from polyray.config.judge import JudgeConfig
from polyray.config.presets import presets
from polyray.config.reward_model import TrainRewardConfig
from polyray.config.run import EvaluateConfig, QuickstartConfig, SftConfig, TrainConfig
from polyray.config.serve import RewardServeConfig
from polyray.config.sweep import SweepConfig
from tests.unit.documents.document_text import (
    DOCUMENTS,
    GUIDES,
    ROOT,
    anchors,
    inline_code,
    links,
    main_of,
    read,
    sections,
    table_rows,
)

CONFIGS = (
    TrainConfig, SftConfig, EvaluateConfig, SweepConfig, JudgeConfig, CurateConfig, TrainRewardConfig,
    QuickstartConfig, GenerationServeConfig, RewardServeConfig,
)  # fmt: skip
FIELD = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:=.*)?")
PATH = re.compile(
    r"(?:polyray|jobs|services|benchmarks|configs|deploy|docker|docs|requirements|tests)/[\w./{},-]*"
)
FILE_ENDINGS = ("json", "jsonl", "yaml", "html", "md", "txt", "py", "csv", "db")


# ---- docs/commands.md


def of_commands() -> dict[str, str]:
    return {heading.strip("`"): text for heading, text in sections(read("docs/commands.md")).items()}


def test_commands_page_has_a_section_for_every_job() -> None:
    assert sorted(of_commands()) == sorted([*COMMANDS, "benchmarks"])


@pytest.mark.parametrize("job", sorted(of_commands()))
def test_options_of_a_section_are_options_of_the_job(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    named = {
        found
        for code in inline_code(of_commands()[job])
        for found in re.findall(r"(?<!\S)--[a-z][a-z-]+", code)
    }
    if named:
        assert named <= known_options(monkeypatch, job)


def known_options(monkeypatch: pytest.MonkeyPatch, job: str) -> set[str]:
    """Options of the job and of its subcommands."""
    seen: set[str] = set()
    container = argparse._ActionsContainer  # parsers, and groups of options within them
    add_argument = container.add_argument

    def remember(self: argparse._ActionsContainer, *names: str, **options: Any) -> Any:
        seen.update(name for name in names if name.startswith("--"))
        return add_argument(self, *names, **options)

    monkeypatch.setattr(container, "add_argument", remember)
    main = main_of(job)
    subcommands = {
        "analyze": ("evaluation", "lora", "ablation", "mechanistic", "figures"),
        "benchmarks": ("quickstart", "gpu"),
        "curate": ("data", "selections"),
        "evaluate": ("score", "reward"),
        "judge": ("agreement",),
    }
    for words in ([], *([name] for name in subcommands.get(job, ()))):
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit):
            main([*words, "--help"])
    return seen


# ---- fields and metrics


@pytest.mark.parametrize("document", GUIDES)
def test_fields_that_a_guide_names_exist(document: str) -> None:
    assert [name for name in fields_in(read(document)) if not is_field(name)] == []


def test_wrong_field_is_found() -> None:
    text = "`learner.stepz=3`, `rollout.max_staleness=0`, `algorithm.anneal.set_size`, `metrics.jsonl`, `jobs.train`"
    found = list(fields_in(text))
    assert found == ["learner.stepz", "rollout.max_staleness", "algorithm.anneal.set_size"]
    assert [is_field(name) for name in found] == [False, True, True]


def fields_in(text: str) -> Iterator[str]:
    """Dotted names that begin like a part of a configuration."""
    parts = {name for config in CONFIGS for name in config.model_fields}
    for code in inline_code(text):
        found = FIELD.fullmatch(code)
        if found and found[1].split(".")[0] in parts and found[1].rpartition(".")[2] not in FILE_ENDINGS:
            yield found[1]


def is_field(dotted: str) -> bool:
    models: set[type[BaseModel]] = set(CONFIGS)
    for part in dotted.split("."):
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        if not annotations:
            return False
        models = {model for annotation in annotations for model in models_in(annotation)}
    return True


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def test_every_preset_has_a_row() -> None:
    rows = table_rows(sections(read("docs/algorithms.md"))["Presets"])
    assert sorted(name for row in rows for name in inline_code(row[0])) == sorted(presets())


def test_metrics_to_watch_are_written_by_the_sources() -> None:
    rows = table_rows(sections(read("docs/hyper-parameters.md"))["Numbers to watch"])
    keys = {key for row in rows for key in inline_code(row[0])}
    assert len(keys) == 13
    assert {key for key in keys if f'"{key}"' not in sources()} == set()


# ---- docs/troubleshooting.md


def test_errors_of_troubleshooting_are_in_the_sources() -> None:
    rows = table_rows(sections(read("docs/troubleshooting.md"))["4. Errors"].partition("###")[0])
    quotes = [quote for row in rows for quote in inline_code(row[0])]
    assert len(quotes) > 30
    assert [quote for quote in quotes if not is_said(quote)] == []
    assert not is_said("the run needs ... and Ray owns ...")


def is_said(quote: str) -> bool:
    """Whether one text of the sources holds the quote; `...` stands for anything."""
    parts = [part.strip() for part in quote.split("...") if part.strip()]
    return any(in_this_order(parts, text) for text in texts() if parts[0] in text)


def in_this_order(parts: list[str], text: str) -> bool:
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@cache
def texts() -> list[str]:
    """Every string of the sources, with an ellipsis for each inserted value."""
    found: list[str] = []
    for file in source_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_kind_of_incident_is_explained() -> None:
    text = read("docs/troubleshooting.md").partition("### Words of `incidents.jsonl`")[2]
    raised = set(re.findall(r'incident\(\s*"([a-z_]+)"', sources()))
    raised |= set(
        re.findall(r'"kind": "([a-z_]+)"', (ROOT / "polyray/launch/watch.py").read_text(encoding="utf-8"))
    )
    assert {code for row in table_rows(text) for code in inline_code(row[0])} == raised
    assert {"worker_replaced", "coordinator_lost"} <= raised


@cache
def sources() -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in source_files())


def source_files() -> list[Path]:
    return [file for folder in ("polyray", "jobs", "services") for file in (ROOT / folder).rglob("*.py")]


# ---- files and headings


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    for link in links(read(document)):
        file, _, anchor = link.partition("#")
        target = (ROOT / document).parent / file if file else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_readme_links_every_guide_and_is_short() -> None:
    text = read("README.md")
    assert set(GUIDES) <= {link.partition("#")[0] for link in links(text)}
    assert len(text.splitlines()) <= 200


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_exist(document: str) -> None:
    missing = [path for path in paths_in(read(document)) if not (ROOT / path).exists()]
    assert missing == []


def test_wrong_path_is_found() -> None:
    text = "`polyray/learner/{step,nowhere}.py`, `configs/train/`, `polyray/a*.py`, `polyray train`"
    found = ["polyray/learner/step.py", "polyray/learner/nowhere.py", "configs/train/"]
    assert list(paths_in(text)) == found


def paths_in(text: str) -> Iterator[str]:
    """Yield the paths of the repository in inline code, `{a,b}` expanded; patterns are left out."""
    for code in inline_code(text):
        if PATH.fullmatch(code) and "NAME" not in code and not code.endswith("..."):
            before, braces, after = code.partition("{")
            names, _, end = after.partition("}")
            yield from [f"{before}{name}{end}" for name in names.split(",")] if braces else [code]


def test_deploy_readme_fetches_data_before_its_use() -> None:
    section = sections(read("deploy/README.md"))["One rented GPU machine, from ssh to adapter"]
    for key in ("task.path", "task.train_path"):
        used = {name: section.index(f"{key}={name}") for name in re.findall(rf"{key}=(data/\S+)", section)}
        assert used
        for name, at in used.items():
            assert 0 < section.find(f"-o {name}") < at, f"{name} comes from nowhere"
