"""Blocks of the documents: each is run as printed, or says why not; a test's sizes are only sizes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.smaller import SIZES, SMALLER, SMALLER_FILES, added
from tests.unit.documents.document_text import DOCUMENTS, Block, blocks, indented_blocks, read

REASONS = (
    "needs GPUs", "needs a GPU", "needs Kubernetes", "needs Docker", "needs several machines", "needs an API key",
    "needs a hub", "needs the network", "needs a model from the hub", "runs this document", "for one's own",
)  # fmt: skip
"""All that may keep a block from being run."""
COMMAND = re.compile(
    r"^\s*(\$ )?(python|\.venv/bin|make|ray|serve|curl|kubectl|helm|docker|git|export|source|bash|pip|jobs\.)\b"
)
ALL = [block for document in DOCUMENTS for block in blocks(document)]
each = pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)


@each
def test_block_is_commands_or_a_named_file(block: Block) -> None:
    if block.is_shell:
        assert not block.file
    else:
        assert block.language in {"json", "python", "yaml"} and block.file, (
            "a block is `bash`, or a file with its name; output and trees are indented"
        )


@each
def test_block_that_is_not_run_says_why_and_is_valid_bash(block: Block) -> None:
    if block.not_run:
        assert block.is_shell
        assert block.not_run.startswith(REASONS), block.not_run
        assert block.text.count("\n") > 1, "nothing but the reason"
    if block.is_shell:
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        assert "Not run here" not in block.text.partition("\n")[2], "the reason is the first line"


@each
def test_file_block_parses(block: Block) -> None:
    if block.language == "yaml":
        assert yaml.safe_load(block.text)
    elif block.language == "json":
        assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())
    elif block.language == "python":
        compile(block.text, block.file, "exec")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_in_fenced_blocks(document: str) -> None:
    lines = [line for text in indented_blocks(read(document)) for line in text.splitlines()]
    assert [line for line in lines if COMMAND.match(line)] == []


def test_an_indented_command_would_be_found() -> None:
    text = "Then\n\n    make quickstart\n    tree/\n\nand `make`.\n\n```bash\n\n    make test\n```\n"
    lines = [line for block in indented_blocks(text) for line in block.splitlines()]
    assert [line for line in lines if COMMAND.match(line)] == ["    make quickstart"]


@each
def test_block_names_no_placeholder(block: Block) -> None:
    """Blocks that are run can be pasted; placeholders are for text."""
    if block.is_shell and not block.not_run:
        code = re.sub(r"#.*", "", block.text)
        found = re.findall(
            r"(?<![\w$\"{-])(?:NAME|ID|FILE|DIR|HEAD|FIRST_MACHINE|HOST|USER|MACHINE|CONFIG)\b", code
        )
        assert found == []
        assert "..." not in code


def test_every_shell_block_of_a_document_without_a_reason_is_a_case() -> None:
    from tests.integration.test_documents import run_blocks

    cases = {case.values[0].name for case in run_blocks()}
    assert cases == {block.name for block in ALL if not block.not_run}
    assert len(cases) > 40


# ---- sizes


def test_additions_are_sizes_only() -> None:
    for words in SMALLER.values():
        keys = {word.partition("=")[0] for word in words if "=" in word or word.startswith("--")}
        assert keys <= SIZES
    for file, sizes in SMALLER_FILES.values():
        assert Path(file).suffix == ".yaml" and set(sizes) <= SIZES


def test_lists_of_overrides_hold_sizes_only() -> None:
    kept = {"algorithm.quality_weight=1.0"}  # of the file whose list is replaced
    for words in SMALLER.values():
        for word in words:
            if word.partition("=")[0].endswith("overrides"):
                inner = yaml.safe_load(word.partition("=")[2])
                assert {text.partition("=")[0] for text in inner if text not in kept} <= SIZES


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "jobs.sft", "configs/sft/math.yaml"], ("learner.steps=4",)),
        (["-m", "jobs.sft", "configs/sft/my_data.yaml", "epochs=5"], ("epochs=1",)),
        (["-m", "jobs.sft", "configs/sft/math.yaml", "--check"], ()),
        (["-m", "jobs.sft", "--help"], ()),
        (["-m", "jobs"], ()),
        (["-m", "pip", "list"], ()),
        (["-c", "print(1)"], ()),
        (["-m", "jobs.evaluate", "score", "x.jsonl"], ("--resamples", "200")),
    ],
)
def test_added_by_job(words: list[str], expected: tuple[str, ...]) -> None:
    assert added(words) == expected


def test_block_serves_only_if_its_last_command_serves() -> None:
    def block(text: str) -> Block:
        return Block("x.md", 1, "", "bash", "", text)

    assert block("export A=1\npolyray serve a.yaml \\\n  port=0  # why\n").serves
    assert block("serve run services.reward:app name=serve\n").serves
    assert not block("polyray serve a.yaml --check\n").serves
    assert not block("polyray serve a.yaml\ncurl x\n").serves
    assert not block("serve deploy a.yaml\n").serves
