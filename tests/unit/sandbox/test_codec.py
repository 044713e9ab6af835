"""Values that cross between tests and source in strict mode: equal on the other side, or refused."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import numpy as np
import pytest

from polyray.sandbox.forkserver.codec import MAX_ITEMS, decode, encode

VALUES = [
    None, True, False, 0, -1, 255, -256, 10**400, -(10**400), 0.1, float("inf"), -0.0, "", "ü\ud800", b"\0", [], (),
    [1, [2, (3, {4: {5}})]], {"a": [None]}, {1, 2}, frozenset({(1,)}), 1 + 2j, range(1, 9, 3), slice(None, 2),
    deque([1, 2]), bytearray(b"ab"),
]  # fmt: skip


def no_handle(value: Any) -> int:
    raise AssertionError(f"a handle for {value!r}")


def no_object(number: int, name: str) -> Any:
    raise AssertionError(f"object {number}")


def crossed(value: Any) -> Any:
    return decode(encode(value, no_handle), no_object)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_builtin_values_cross_unchanged(value: Any) -> None:
    assert (crossed(value), type(crossed(value))) == (value, type(value))


def test_subclasses_of_builtin_types_cross_as_the_builtin() -> None:
    Point = namedtuple("Point", "x y")
    for value in (Counter("abca"), OrderedDict(a=1), defaultdict(list, {"a": [1]})):
        assert (crossed(value), type(crossed(value))) == (dict(value), dict)
    assert crossed(Point(1, 2)) == (1, 2)
    assert list(crossed(map(str, [1, 2]))) == ["1", "2"]
    assert list(crossed(n for n in range(3))) == [0, 1, 2]
    assert crossed({"a": 1}.keys()) == {"a"}
    assert list(crossed({"a": 1}.items())) == [("a", 1)]
    assert list(crossed({"a": 1}.values())) == [1]
    assert np.isnan(crossed(float("nan")))


@pytest.mark.parametrize("dtype", ["?", "<i4", ">f8", "c16", "S3", "U2", "M8[s]"])
def test_numpy_values_cross(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    back = crossed(array)
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape) == (array.dtype, (2, 2))
    scalar = crossed(array[0, 1])
    assert scalar == array[0, 1] and type(scalar) is type(array[0, 1])


def test_other_objects_cross_as_handles() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    objects: list[Any] = []

    def handle(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    odd = np.array([object()])
    data = encode([Liar(3), len, odd], handle)
    assert decode(data, lambda number, name: (number, name)) == [
        (0, "Liar"),
        (1, "builtin_function_or_method"),
        (2, "ndarray"),
    ]
    assert objects[1] is len and objects[2] is odd


def test_endless_values_are_refused() -> None:
    def endless() -> Any:
        while True:
            yield 0

    with pytest.raises(ValueError, match=rf"\b{MAX_ITEMS} items"):
        encode(endless(), no_handle)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        encode(loop, no_handle)


def test_hostile_bytes_decode_to_values_or_errors() -> None:
    rng = random.Random(0)
    sound = encode([1, "a", {2: (3.5, b"x")}, {4}, np.arange(3)], no_handle)
    plain = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, np.ndarray, np.generic)
    num_errors = 0
    for _ in range(2000):
        data = bytearray(sound)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            value = decode(bytes(data[: rng.randrange(1, len(data) + 1)]), lambda number, name: None)
        except (AssertionError, KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except Exception:
            num_errors += 1
        else:
            assert isinstance(value, (*plain, deque, frozenset, range, slice, complex, bytearray)) or hasattr(
                value, "__iter__"
            )
    assert num_errors > 1000
    with pytest.raises(ValueError, match=r"\b4611686018427387904\b"):
        decode(b"l" + (2**62).to_bytes(8, "little"), no_object)
