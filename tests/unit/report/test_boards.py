from __future__ import annotations

from polyray.report.boards import (
    CELL,
    CORRECT_COLOUR,
    MARGIN,
    WRONG_COLOUR,
    DrawnPath,
    board_svg,
    visited_cells,
)
from polyray.tasks.hidden_trap_grid import cell_index


def names(*cells: str) -> list[int]:
    return [cell_index(cell) for cell in cells]


def test_path_ends_at_its_first_failure() -> None:
    b1 = cell_index("b1")
    assert visited_cells(b1, "RU", frozenset()) == names("b1", "c1", "c2")
    assert visited_cells(b1, "RUU", frozenset(names("c2"))) == names("b1", "c1", "c2")
    assert visited_cells(b1, "LLL", frozenset()) == names("b1", "a1")
    assert visited_cells(b1, "R?R", frozenset()) == names("b1", "c1")
    assert len(visited_cells(b1, "UD" * 9, frozenset())) == 10


def test_board_draws_each_path_from_start_and_every_trap() -> None:
    traps = frozenset(names("d1", "h8"))
    paths = [DrawnPath("RRRUUU", 3, False), DrawnPath("UUURRR", 1, True)]
    svg = board_svg("37|b1>e4=", traps, paths, "two paths")
    assert svg.count('class="trap"') == 2 and svg.count("<polyline") == 2
    assert svg.count(CORRECT_COLOUR) == 2 and svg.count(WRONG_COLOUR) == 2
    assert svg.count("stroke-dasharray") == 1


def test_a_single_path_runs_through_the_centres() -> None:
    svg = board_svg("37|b1>e4=", frozenset(), [DrawnPath("R", 1, True)], "")
    y = 7.5 * CELL
    assert f'points="{MARGIN + 1.5 * CELL:.1f},{y:.1f} {MARGIN + 2.5 * CELL:.1f},{y:.1f}"' in svg
