"""What the repository's documents say: their command lines, links, anchors, tables and names of fields (no test)."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyray.cli.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
GUIDES = (
    "deploy/README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "algorithms", "architecture", "commands", "configuration", "evaluation", "glossary", "hyper-parameters",
            "models", "operations", "own-task", "python-api", "rewards", "scaling", "serving", "sweeps",
            "troubleshooting",
        )
    ),
)  # fmt: skip
FOLDERS = ("configs", "deploy", "docker", "docs", "polyray")
DOCUMENTS = (
    "README.md",
    "AGENTS.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(file.relative_to(ROOT)) for folder in FOLDERS for file in (ROOT / folder).rglob("*.md")),
)

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = rf"(?:^|[\s`/])polyray (?=(?:{'|'.join(COMMANDS)})(?!\w))"
_JOB = re.compile(rf"(?:python -m jobs\.(?=[a-z])|{_COMMAND}|python -m (?=benchmarks(?![.\w])))([a-z_]+)(.*)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SHELL = {"&", "&&", "|", "||", ">", ";"}
_NOT_RUN = re.compile(r"# Not run here: (.+)")
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n|\n(?= {4}))+")


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: str
    line: int
    """Number of its first line of content, from 1."""
    section: str
    """The last heading above it."""
    language: str
    file: str
    """Name of the file that a reader writes it to; empty for commands."""
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def not_run(self) -> str:
        """The reason in its first line; empty for a block that is run."""
        found = _NOT_RUN.fullmatch(self.text.partition("\n")[0])
        return found[1] if found else ""

    @property
    def is_shell(self) -> bool:
        return self.language == "bash"

    @property
    def serves(self) -> bool:
        """Whether its last command runs until it is interrupted."""
        last = self.text.replace("\\\n", " ").rstrip().rpartition("\n")[2]
        try:
            words = arguments(last)
        except ValueError:  # the end of a text in quotes
            return False
        serves = words[:2] in (["polyray", "serve"], ["serve", "run"])
        return serves and not {"--check", "--help"} & set(words)


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Without blocks of code."""
    return _FENCE.sub("", text)


def main_of(job: str) -> Callable[[Sequence[str]], int]:
    """Function `main` of a command, or of the benchmarks."""
    module = "benchmarks.__main__" if job == "benchmarks" else f"polyray.cli.{job}"
    return importlib.import_module(module).main


def command_lines(text: str) -> list[tuple[str, list[str]]]:
    """(job, arguments) of every `polyray JOB ...` or `python -m jobs.JOB ...`, as a shell would take them apart."""
    blocks = "\n".join(_FENCE.findall(text)).replace("\\\n", " ")
    return commands_of([*blocks.splitlines(), *_INLINE.findall(prose(text))])


def commands_of(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """(job, arguments) of the commands in these lines, several in one with `&&`."""
    parts = [part for line in lines for part in line.split(" && ")]
    return [(found[1], arguments(found[2])) for part in parts if (found := _JOB.search(part))]


def arguments(words: str) -> list[str]:
    given = shlex.split(words, comments=True)
    end = next((at for at, word in enumerate(given) if word in _SHELL), len(given))
    return given[:end]


def links(text: str) -> list[str]:
    return [link for link in _LINK.findall(prose(text)) if "://" not in link]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def inline_code(text: str) -> list[str]:
    return _INLINE.findall(prose(text))


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table_rows(text: str) -> list[list[str]]:
    """Cells of all rows but headings and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {at for at, line in enumerate(lines) if set(line) <= set("|-: ")}
    kept = [line for at, line in enumerate(lines) if at not in rules and at + 1 not in rules]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


def blocks(document: str) -> list[Block]:
    """Its fenced blocks, in order."""
    text, found, section = read(document), [], ""
    lines = text.splitlines()
    opened: tuple[int, list[str]] | None = None
    for at, line in enumerate(lines):
        if line.startswith("```"):
            if opened is None:
                opened = (at, line[3:].split(" "))
                continue
            start, (language, *name) = opened
            content = "".join(f"{inside}\n" for inside in lines[start + 1 : at])
            found.append(Block(document, start + 2, section, language, " ".join(name), content))
            opened = None
        elif opened is None and line.startswith("#"):
            section = line.lstrip("# ")
    assert opened is None, f"{document}: the block of line {opened and opened[0] + 1} is not closed"
    return found


def indented_blocks(text: str) -> list[str]:
    """Blocks of code that are marked by four spaces; lists go on with two."""
    return _INDENTED.findall(prose(text))
