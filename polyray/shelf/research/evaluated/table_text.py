"""A table as LaTeX (booktabs), as Markdown, and as the list of its numbers' places.

Called by files.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyray.report.numbers import MINUS
from polyray.shelf.research.evaluated.cells import NONE, Table

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    "≥": r"$\geq$",
    NONE: "--",
    "→": r"$\rightarrow$",
    "\n": " ",
}


def latex(table: Table) -> str:
    """A table environment with \\toprule, \\midrule, \\bottomrule; needs \\usepackage{booktabs}."""
    alignment = "l" * table.num_names + "r" * (len(table.columns) - table.num_names)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        _latex_row(table.columns),
        r"\midrule",
        *(_latex_row([cell.text for cell in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """`text` as LaTeX prints it: special characters escaped."""
    escaped = "".join(LATEX_SPECIAL.get(character, character) for character in text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped  # else an argument of the row's end


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(map(latex_text, texts)) + r" \\"


def markdown(table: Table) -> str:
    """A pipe table under its caption."""
    rule = ["---"] * table.num_names + ["---:"] * (len(table.columns) - table.num_names)
    rows = [
        [_markdown_text(text) for text in table.columns],
        rule,
        *([_markdown_text(cell.text) for cell in row] for row in table.rows),
    ]
    return "\n".join([_markdown_text(table.caption), "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _markdown_text(text: str) -> str:
    for character in ("\\", "|", "*", "_", "`", "<", ">"):
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def traced(tables: Sequence[Table]) -> dict[str, Any]:
    """The contents of tables.json: every cell with a number, and the places it was read from."""
    return {
        table.name: {
            "caption": table.caption,
            "files": [f"{table.name}.tex", f"{table.name}.md"],
            "columns": list(table.columns),
            "cells": [
                {
                    "row": number,
                    "column": column,
                    "text": cell.text,
                    "sources": [source.as_json() for source in cell.sources],
                }
                for number, row in enumerate(table.rows)
                for column, cell in zip(table.columns, row, strict=True)
            ],
        }
        for table in tables
    }
