"""Blocks of documents, run as printed in a fresh clone.

The words are the document's; `tests/smaller.py` adds sizes only. A block that says "Not run here" is parsed instead
(tests/unit/documents).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.terminal import Terminal, clone, isolates
from tests.unit.documents.document_text import DOCUMENTS, Block, blocks, command_lines

STARTS_SOMETHING = re.compile(r"\b(make|ray|serve|curl)\b")
ACTIVATE = "source .venv/bin/activate"
SECONDS = 1500.0
SERVICE_SECONDS = 300.0

Open = Callable[[str], Terminal]


def run_blocks() -> list[Any]:
    """Blocks to run; blocks before the first start are quick."""
    cases = []
    for document in DOCUMENTS:
        quick = True
        for block in blocks(document):
            if not block.not_run:
                quick = quick and is_quick(block)
                cases.append(pytest.param(block, id=block.name, marks=[] if quick else [pytest.mark.slow]))
    return cases


def is_quick(block: Block) -> bool:
    """Whether the block is a file or only checks or scores."""
    jobs = command_lines(f"```\n{block.text}```\n")
    return not block.is_shell or (
        not STARTS_SOMETHING.search(block.text)
        and all("--check" in given or given[:1] == ["score"] for _, given in jobs)
    )


@pytest.fixture(scope="module")
def terminal_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Terminal in a clone of the document; closes the previous one."""
    if not isolates():
        pytest.skip(
            "no namespaces for unprivileged processes: documents would use this machine's ports and Ray"
        )
    opened: dict[str, Terminal] = {}

    def terminal(document: str) -> Terminal:
        if document not in opened:
            for name in list(opened):
                opened.pop(name).close()
            directory = tmp_path_factory.mktemp("reader")
            clone(directory / "polyray")
            opened[document] = Terminal(directory / "polyray", directory / "home")
            if document != "README.md":
                opened[document].run(ACTIVATE, 60)
        return opened[document]

    yield terminal
    for left in opened.values():
        left.close()


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """Document -> section of the block that was run last: a service ends with its section."""
    return {}


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("block", run_blocks())
def test_block_as_printed(block: Block, terminal_of: Open, sections: dict[str, str]) -> None:
    terminal = terminal_of(block.document)
    if sections.get(block.document) != block.section:
        terminal.interrupt(120)
    sections[block.document] = block.section
    if block.file:
        write(terminal.directory, block)
    elif block.serves:
        terminal.interrupt(120)
        terminal.serve(block.text, SERVICE_SECONDS)
    else:
        print(terminal.run(block.text, SECONDS))


def write(directory: Path, block: Block) -> None:
    """The file that a reader would save the block as."""
    if block.language == "yaml":
        yaml.safe_load(block.text)
    if block.language == "json":
        [json.loads(line) for line in block.text.splitlines()]
    file = directory / block.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, encoding="utf-8")


# ---- the terminal itself


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if not isolates():
        pytest.skip("no namespaces for unprivileged processes")
    opened = Terminal(tmp_path, tmp_path / "home")
    yield opened
    opened.close()


def test_terminal_failing_command_fails_its_block(terminal: Terminal) -> None:
    for text in ("false\necho after\n", "false | cat\n", "cd nowhere\n"):
        with pytest.raises(AssertionError, match="exit code 1"):
            terminal.run(text, 20)


def test_terminal_keeps_exported_variables_only(terminal: Terminal) -> None:
    terminal.run("export KEPT='a b'\nLOST=1\n", 20)
    assert terminal.run('echo "$KEPT:$LOST"\n', 20) == "a b:\n"


def test_terminal_ends_a_block_that_hangs(terminal: Terminal) -> None:
    with pytest.raises(AssertionError, match="1 s"):
        terminal.run("sleep 60\n", 1)


def test_terminal_service_answers_until_its_interrupt(terminal: Terminal) -> None:
    service = "import signal; print('it is ready', flush=True); signal.pause()"
    terminal.serve(f'export A=1\n{sys.executable} -c "{service}"\n', 20)
    assert "signal.pause" in terminal.run("ps -eo args\n", 20)
    terminal.interrupt(20)
    assert "signal.pause" not in terminal.run("ps -eo args\n", 20)


def test_terminal_service_that_ends_at_once_fails_its_block(terminal: Terminal) -> None:
    with pytest.raises(AssertionError, match="No module named nowhere"):
        terminal.serve(f"{sys.executable} -m nowhere\n", 20)
