"""Boards of the hidden-trap grid as small inline SVG: traps, start, goal and the paths of k candidates.

Each different path is drawn once, wider the more candidates took it, and shifted a little so that paths that
share cells stay visible. A wrong path ends with a cross where it fails: on its first trap, at the board's
edge, or where it stops short of the goal. Not a renderer for other tasks: candidates.py shows those as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyray.tasks.hidden_trap_grid import BOARD, MAX_MOVES, NEIGHBOURS, parse_prompt

CELL = 22
MARGIN = 12
SIDE = BOARD * CELL + MARGIN
CORRECT_COLOUR = "#00795c"
WRONG_COLOUR = "#b4234a"


@dataclass(frozen=True, slots=True)
class DrawnPath:
    """One different answer among the candidates.

    Example:
        DrawnPath(moves="RRURUU", count=3, correct=True)
    """

    moves: str
    count: int
    correct: bool


def board_svg(prompt: str, traps: frozenset[int], paths: Sequence[DrawnPath], label: str) -> str:
    """An <svg> element; `label` is its text for screen readers, already escaped."""
    start, goal = parse_prompt(prompt)
    parts = [
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{label}" class="board">',
        '<use href="#empty-board"/>',
        *(_square(cell, "trap", 0) for cell in sorted(traps)),
        _square(start, "start", 3),
        _square(goal, "goal", 3),
    ]
    ordered = sorted(paths, key=lambda path: (path.correct, path.count))
    for number, path in enumerate(ordered):
        parts.append(_path(visited_cells(start, path.moves, traps), path, number, len(ordered)))
    parts += [_letter(start, "S"), _letter(goal, "G")]
    return "".join([*parts, "</svg>"])


def empty_board_symbol() -> str:
    """The cells and coordinates, drawn once per page and referred to by every board."""
    lines = "".join(
        f"M{MARGIN + i * CELL} 0V{BOARD * CELL}M{MARGIN} {i * CELL}H{MARGIN + BOARD * CELL}"
        for i in range(BOARD + 1)
    )
    names = "".join(
        f'<text x="{MARGIN + (i + 0.5) * CELL}" y="{SIDE - 2}">{"abcdefgh"[i]}</text>'
        f'<text x="5" y="{(BOARD - i - 0.5) * CELL + 3}">{i + 1}</text>'
        for i in range(BOARD)
    )
    return (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><symbol id="empty-board" '
        f'viewBox="0 0 {SIDE} {SIDE}"><rect x="{MARGIN}" width="{BOARD * CELL}" height="{BOARD * CELL}" '
        f'fill="#fff"/><path d="{lines}" class="lines"/><g class="names">{names}</g></symbol></svg>'
    )


def visited_cells(start: int, moves: str, traps: frozenset[int]) -> list[int]:
    """Start and cells reached, up to the first trap, unknown letter, step off the board or surplus move."""
    cells = [start]
    for move in moves[:MAX_MOVES]:
        following = NEIGHBOURS[cells[-1]].get(move, -1)
        if following < 0:
            break
        cells.append(following)
        if following in traps:
            break
    return cells


def _centre(cell: int) -> tuple[float, float]:
    column, row = cell // BOARD, cell % BOARD
    return MARGIN + (column + 0.5) * CELL, (BOARD - row - 0.5) * CELL


def _square(cell: int, kind: str, corner_radius: int) -> str:
    x, y = _centre(cell)
    corner = f'x="{x - CELL / 2 + 1}" y="{y - CELL / 2 + 1}"'
    return f'<rect class="{kind}" {corner} width="{CELL - 2}" height="{CELL - 2}" rx="{corner_radius}"/>'


def _letter(cell: int, letter: str) -> str:
    x, y = _centre(cell)
    return f'<text class="end" x="{x}" y="{y + 4}">{letter}</text>'


def _path(cells: Sequence[int], path: DrawnPath, number: int, total: int) -> str:
    shift = 0.0 if total == 1 else (number / (total - 1) - 0.5) * min(10.0, 2.6 * (total - 1))
    points = [(x + shift, y - shift) for x, y in map(_centre, cells)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    width = min(1.5 + 0.45 * (path.count - 1), 4.5)
    colour = CORRECT_COLOUR if path.correct else WRONG_COLOUR
    dash = (
        ""
        if path.correct
        else f' stroke-dasharray="{2 * width + 1:.1f} {width + 1.5:.1f}" stroke-linecap="butt"'
    )
    x, y = points[-1]
    if path.correct:
        tip = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    else:
        tip = f'<path d="M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6" stroke="{colour}" stroke-width="1.8"/>'
    stroke = f'stroke="{colour}" stroke-width="{width:.2f}"{dash}'
    return f'<polyline points="{line}" fill="none" {stroke} class="route"/>{tip}'
