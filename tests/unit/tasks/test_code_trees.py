"""Canonical syntax trees: what counts as the same program, and how far apart two are."""

from __future__ import annotations

import functools
import random

import pytest

from polyray.tasks.code_trees import Tree, canonical_tree, levenshtein, tree_distance

BASE = "def f(a, b):\n    x = a + 1\n    return max(x, b)\n"


def key(source: str) -> str:
    tree = canonical_tree(source)
    assert tree is not None
    return tree.key()


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (BASE, "def g(u, v):\n    w = u + 1\n    return max(w, v)\n"),
        (BASE, 'def f(a: int, b: "int") -> int:\n    """Doc."""\n    x: int = a + 1\n    return max(x, b)'),
        (BASE, "def f(a,b):\n  x=(a+1)\n  pass\n  y: int\n  return max(x,b)\npass\n"),
        (BASE, "from typing import List\n" + BASE),
        ("import numpy as np\nx = np.ones(3)", "import numpy\nx = numpy.ones(3)"),
        ("def f(key): return sorted(key, key=len)", "def f(xs): return sorted(xs, key=len)"),
        ("def f(n): return n\nf(n=1)", "def g(m): return m\ng(m=1)"),
    ],
)
def test_key_ignores_names_comments_annotations_and_layout(one: str, same: str):
    assert key(one) == key(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (BASE, BASE.replace("max", "min")),
        (BASE, BASE.replace("+ 1", "+ 2")),
        (BASE, BASE.replace("+ 1", "+ True")),
        (BASE, BASE.replace("max(x, b)", "max(b, x)")),
        ("y = x[1:]", "y = x[:1]"),
        ("def f(a, b): return a", "def f(a, *, b): return a"),
        ("def f(a, b=1): return a", "def f(a, *, b=1): return a"),
        ("if p(): q()\nelse: r()", "if p():\n  q()\n  r()"),
        ("for i in s: q()\nelse: r()", "for i in s:\n  q()\n  r()"),
        ("y = a < b <= c", "y = a <= b < c"),
        ("import math\ny = math.sqrt(4)", "import cmath\ny = cmath.sqrt(4)"),
        ("x = None", "x = 0"),
    ],
)
def test_key_differs_with_behaviour(one: str, other: str):
    assert key(one) != key(other)


@pytest.mark.parametrize("broken", ["def f(:", "x = '\ud800'", "a\0b", "(" * 500, "-" * 20_000 + "1"])
def test_unparsable_program_has_no_tree(broken: str, recwarn: pytest.WarningsRecorder):
    assert canonical_tree(broken) is None
    assert canonical_tree("x = '\\d'") is not None
    assert not recwarn, "an invalid escape of a program is no warning of ours"


def brute_force_distance(first: Tree, second: Tree) -> int:
    """Edit distance of ordered forests by its definition: delete, insert or match the rightmost roots."""

    @functools.cache
    def size(forest: tuple[Tree, ...]) -> int:
        return sum(1 + size(tree.children) for tree in forest)

    @functools.cache
    def distance(a: tuple[Tree, ...], b: tuple[Tree, ...]) -> int:
        if not a or not b:
            return size(a) + size(b)
        delete = distance(a[:-1] + a[-1].children, b) + 1
        insert = distance(a, b[:-1] + b[-1].children) + 1
        relabel = (a[-1].label != b[-1].label) + distance(a[-1].children, b[-1].children)
        return min(delete, insert, relabel + distance(a[:-1], b[:-1]))

    return distance((first,), (second,))


def random_tree(rng: random.Random, size: int) -> Tree:
    children, left = [], size - 1
    while left:
        part = rng.randint(1, left)
        children.append(random_tree(rng, part))
        left -= part
    return Tree(rng.choice("abc"), tuple(children))


def test_tree_distance_equals_the_edit_distance_over_the_larger_size():
    rng = random.Random(0)
    for _ in range(60):
        sizes = rng.randint(1, 7), rng.randint(1, 7)
        a, b = random_tree(rng, sizes[0]), random_tree(rng, sizes[1])
        expected = min(1.0, brute_force_distance(a, b) / max(sizes))
        assert tree_distance(a, b) == tree_distance(b, a) == expected
        assert tree_distance(a, b, max_nodes=1) <= expected + 1e-12 or max(sizes) == 1
    a, b = (canonical_tree("\n".join(f"x{i} = f({i}) {sign} {i % 7}" for i in range(2000))) for sign in "+*")
    assert a is not None and b is not None
    assert 0.1 < tree_distance(a, b) == tree_distance(b, a) < 0.5, "large trees take milliseconds"


def test_levenshtein_equals_its_recursion():
    @functools.cache
    def recursive(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(recursive(a[1:], b) + 1, recursive(a, b[1:]) + 1, recursive(a[1:], b[1:]) + (a[0] != b[0]))

    rng = random.Random(1)
    for _ in range(200):
        a = "".join(rng.choices("xyz", k=rng.randint(0, 7)))
        b = "".join(rng.choices("xyz", k=rng.randint(0, 7)))
        assert levenshtein(list(a), list(b)) == recursive(a, b)
