"""The default task against its definition and against figures computed by hand or by enumeration."""

from __future__ import annotations

import itertools
import subprocess
import sys
from statistics import mean

import pytest

from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import DataError
from polyray.tasks.base import class_id
from polyray.tasks.hidden_trap_grid import (
    HiddenTrapGrid,
    cell_index,
    cell_name,
    parse_prompt,
    shortest_moves,
    split_pairs,
    trap_cells,
    walk,
)
from polyray.types import WRONG_CLASS, Prompt

OPEN = HiddenTrapGrid(HiddenTrapGridSpec(trap_probability=0.0))
GRID = HiddenTrapGrid(HiddenTrapGridSpec())
B1_E4 = Prompt(prompt_id="p", text="37|b1>e4=")
TRAPS_OF_37 = ["a1", "a5", "a7", "a8", "c7", "c8", "d1", "d5", "d8", "e8", "h2", "h6"]


def _shortest_paths(prompt: Prompt) -> list[str]:
    horizontal, vertical = shortest_moves(*parse_prompt(prompt.text))
    length = len(horizontal) + len(vertical)
    return [
        "".join(horizontal[0] if step in columns else vertical[0] for step in range(length))
        for columns in itertools.combinations(range(length), len(horizontal))
    ]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("RRRUUU", 1.0),
        ("RRURUU", 1.0),
        (" RRRUUU\n", 1.0),
        ("LRRRRUUU", 1.0),
        ("LRLRRRRUUU", 0.0),  # ten moves leave no room for the end of sequence
        ("RRRUU", 0.0),
        ("RRRUUUU", 0.0),
        ("DURRRUUU", 0.0),  # b0 is off the board
        ("RRR UUU", 0.0),
        ("rrruuu", 0.0),
        ("", 0.0),
    ],
)
def test_reward_without_traps_needs_exact_moves_to_the_goal(completion: str, reward: float) -> None:
    assert OPEN.reward(B1_E4, completion) == reward
    assert (OPEN.completion_class(B1_E4, completion) == WRONG_CLASS) == (reward == 0.0)


def test_reward_with_traps_is_zero_for_paths_over_one() -> None:
    traps = trap_cells("polyray", B1_E4.text, 0.15)
    start = cell_index("b1")
    for path in _shortest_paths(B1_E4):
        cells = walk(start, path)
        assert cells is not None
        assert GRID.reward(B1_E4, path) == float(traps.isdisjoint(cells))


def test_traps_depend_on_salt_map_and_probability_only() -> None:
    traps = trap_cells("polyray", B1_E4.text, 0.15)
    assert sorted(cell_name(cell) for cell in traps) == TRAPS_OF_37
    assert trap_cells("other", B1_E4.text, 0.15) != traps
    assert trap_cells("polyray", "38|b1>e4=", 0.15) != traps
    assert traps < trap_cells("polyray", B1_E4.text, 0.5)
    assert len(trap_cells("polyray", B1_E4.text, 1 - 1e-12)) == 62
    shares = [len(trap_cells("polyray", prompt.text, 0.15)) / 62 for prompt in GRID.held_out_prompts()]
    assert mean(shares) == pytest.approx(0.15, abs=0.005)


def test_task_of_another_process_is_the_same_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom polyray.tasks.hidden_trap_grid import HiddenTrapGrid\n"
        "from polyray.config.task import HiddenTrapGridSpec\n"
        "task = HiddenTrapGrid(HiddenTrapGridSpec(trap_probability=0.0))\n"
        "prompt, moves = task.demonstration(5, 1)\n"
        "print(task.training_prompt(5, 1).text, moves, task.completion_class(prompt, moves), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    prompt, moves = OPEN.demonstration(5, 1)
    expected = [OPEN.training_prompt(5, 1).text, moves, str(OPEN.completion_class(prompt, moves)), "False"]
    assert done.stdout.split() == expected


def test_class_is_the_set_of_visited_cells() -> None:
    upper, lower = OPEN.completion_class(B1_E4, "UUURRR"), OPEN.completion_class(B1_E4, "RRRUUU")
    assert upper != lower
    assert OPEN.completion_class(B1_E4, "RLRRRUUU") == lower
    assert OPEN.partition(B1_E4, ["UUURRR", "RRRUUU", "R"]) == [upper, lower, WRONG_CLASS]
    assert lower == class_id("b1,c1,d1,e1,e2,e3,e4") and 0 <= lower < 2**52


def test_distance_is_jaccard_without_the_goal() -> None:
    # Without e4: {b1 c1 d1 e1 e2 e3} and {b1 b2 b3 b4 c4 d4} share b1 of 11 cells.
    assert OPEN.distance(B1_E4, "RRRUUU", "UUURRR") == pytest.approx(10 / 11)
    assert OPEN.distance(B1_E4, "RRRUUU", "RRRUUU") == 0.0
    assert OPEN.distance(B1_E4, "RRRUUU", "RRURUU") == pytest.approx(1 - 5 / 7)
    assert OPEN.distance(B1_E4, "RRRUUU", "UUU") == 0.0


def test_prompts_of_training_and_held_out_pairs_are_apart_and_random_access() -> None:
    training, held_out = split_pairs(200)
    assert (len(training), len(held_out), len({*training, *held_out})) == (700, 200, 900)
    assert split_pairs(50)[1] == held_out[:50]
    prompts = GRID.held_out_prompts()
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == 2000
    clusters = {prompt.cluster_id for prompt in prompts[:200]}
    assert len(clusters) == 200, "one map of each pair first"
    assert GRID.held_out_prompts(7) == prompts[:7]
    assert HiddenTrapGrid(HiddenTrapGridSpec(held_out_ids_per_pair=2)).held_out_prompts() == prompts[:400]
    trained = [GRID.training_prompt(index, 3) for index in reversed(range(3000))][::-1]
    assert trained[:20] == [GRID.training_prompt(index, 3) for index in range(20)]
    assert trained[0] != GRID.training_prompt(0, 4)
    seen = {prompt.cluster_id for prompt in trained}
    demonstrated = {GRID.demonstration(index, 0)[0].cluster_id for index in range(3000)}
    assert len(seen) > 650 and clusters.isdisjoint(seen | demonstrated)
    with pytest.raises(DataError, match=r"'2\+2='.*hidden_trap_grid"):
        GRID.reward(Prompt(prompt_id="", text="2+2="), "RR")


def test_validation_prompts_are_of_pairs_of_their_own() -> None:
    prompts = GRID.validation_prompts()
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 2000
    assert len({prompt.cluster_id for prompt in prompts[:200]}) == 200
    assert GRID.validation_prompts(7) == prompts[:7]
    lengths = [len("".join(shortest_moves(*parse_prompt(prompt.text)))) for prompt in prompts]
    assert {length: lengths.count(length) for length in set(lengths)}.keys() == {5, 7, 8}
    most = HiddenTrapGrid(HiddenTrapGridSpec(num_held_out_pairs=800))
    assert most.validation_prompts() == prompts
    everything = {f"{cell_name(a)}>{cell_name(b)}" for part in split_pairs(800) for a, b in part}
    assert everything.isdisjoint(prompt.cluster_id for prompt in prompts)


def test_demonstrations_have_the_documented_shares_of_styles() -> None:
    demonstrations = [GRID.demonstration(index, 0) for index in range(6000)]
    correct = [OPEN.reward(prompt, moves) for prompt, moves in demonstrations]
    # A replaced move is the old one in a quarter of the cases; no other replacement still ends on the goal.
    assert mean(correct) == pytest.approx(1 - 0.30 * 0.75, abs=0.02)
    clean = [(prompt, moves) for (prompt, moves), right in zip(demonstrations, correct, strict=True) if right]
    shapes = [shortest_moves(*parse_prompt(prompt.text)) for prompt, _ in clean]
    # Random orders are an L by chance: 1 of C(n, k) each, 0.067 on average over the sizes.
    by_chance = mean(1 / len(_shortest_paths(prompt)) for prompt, _ in clean)
    horizontal = mean(moves == h + v for (_, moves), (h, v) in zip(clean, shapes, strict=True))
    vertical = mean(moves == v + h for (_, moves), (h, v) in zip(clean, shapes, strict=True))
    assert horizontal == pytest.approx(0.45 + 0.35 * by_chance, abs=0.02)
    assert vertical == pytest.approx(0.20 + 0.35 * by_chance, abs=0.02)


def test_held_out_prompts_have_the_documented_difficulty() -> None:
    prompts = GRID.held_out_prompts(200)
    fixed = mean(
        GRID.reward(prompt, "".join(shortest_moves(*parse_prompt(prompt.text)))) for prompt in prompts
    )
    uniform = [mean(GRID.reward(prompt, path) for path in _shortest_paths(prompt)) for prompt in prompts]
    assert fixed == pytest.approx(0.43, abs=0.07)
    assert mean(uniform) == pytest.approx(0.446, abs=0.03)
    assert mean(1 - (1 - share) ** 8 for share in uniform) == pytest.approx(0.835, abs=0.03)
