"""Blocks of the documents: each is run as printed, or gives a reason."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.smaller import SIZES, SMALLER, SMALLER_FILES
from tests.unit.documents.document_text import DOCUMENTS, Block, blocks, indented_blocks, read

REASONS = (
    "needs GPUs", "needs a GPU", "needs Kubernetes", "needs Docker", "needs several machines", "needs an API key",
    "needs a hub", "needs the network", "needs a model from the hub", "runs this document", "for one's own",
    "takes 20 minutes", "takes hours",
)  # fmt: skip
"""All that may keep a block from being run."""
COMMAND = re.compile(
    r"^\s*(\$ )?(python|\.venv/bin|make|ray|serve|curl|kubectl|helm|docker|git|export|source|bash|pip|jobs\.)\b"
)
PLACEHOLDER = re.compile(r"(?<![\w$\"{-])(?:NAME|ID|FILE|DIR|HEAD|FIRST_MACHINE|HOST|USER|MACHINE|CONFIG)\b")
ALL = [block for document in DOCUMENTS for block in blocks(document)]
each = pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)


@each
def test_block_is_valid_bash_without_placeholders_or_a_named_file_that_parses(block: Block) -> None:
    if block.is_shell:
        assert not block.file
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        assert "Not run here" not in block.text.partition("\n")[2], "the reason is the first line"
    else:
        assert block.file and block.language in {"json", "python", "yaml"}, (
            "a block is `bash`, or a file with its name; output and trees are indented"
        )
    if block.language == "yaml":
        assert yaml.safe_load(block.text)
    elif block.language == "json":
        assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())
    elif block.language == "python":
        compile(block.text, block.file, "exec")
    elif block.not_run:
        assert block.not_run.startswith(REASONS), block.not_run
        assert block.text.count("\n") > 1, "nothing but the reason"
    else:
        code = re.sub(r"#.*", "", block.text)
        assert "..." not in code and PLACEHOLDER.findall(code) == [], "blocks that are run can be pasted"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_in_fenced_blocks(document: str) -> None:
    example = "Then\n\n    make quickstart\n    tree/\n\nand `make`.\n\n```bash\n\n    make test\n```\n"
    for text, expected in ((example, ["    make quickstart"]), (read(document), [])):
        lines = [line for block in indented_blocks(text) for line in block.splitlines()]
        assert [line for line in lines if COMMAND.match(line)] == expected


def test_every_shell_block_of_a_document_without_a_reason_is_a_case() -> None:
    from tests.integration.test_documents import run_blocks

    cases = {case.values[0].name for case in run_blocks()}
    assert cases == {block.name for block in ALL if not block.not_run}
    assert len(cases) > 40


def test_additions_are_sizes_only() -> None:
    for words in SMALLER.values():
        keys = {word.partition("=")[0] for word in words if "=" in word or word.startswith("--")}
        assert keys <= SIZES
        for word in words:
            if word.partition("=")[0].endswith("overrides"):
                inner = [text.partition("=")[0] for text in yaml.safe_load(word.partition("=")[2])]
                assert set(inner) - {"algorithm.quality_weight"} <= SIZES
    for file, sizes in SMALLER_FILES.values():
        assert Path(file).suffix == ".yaml" and set(sizes) <= SIZES
