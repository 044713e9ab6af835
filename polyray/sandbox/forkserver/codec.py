"""The plain values that cross between the tests and the source in strict mode: builtin types and numpy's.

Bytes from the source's side are hostile: decoding builds nothing but such values and calls nothing of theirs. A value
of any other type crosses as a handle, which the other side can only hand back. Called by split.py.

    encode(value, handle)   bytes; `handle(value)` numbers an object that cannot cross
    decode(data, opaque)    the value; `opaque(number, type name)` replaces such an object
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

MAX_ITEMS = 1_000_000
"""Limit of an iterator, which is read to its end to cross."""
_SIZE = struct.Struct("<Q")
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z", deque: b"q"}
_BUILDERS: dict[bytes, Callable[[Iterable[Any]], Any]] = {
    b"l": list, b"t": tuple, b"S": set, b"Z": frozenset, b"q": deque, b"I": iter,
    b"K": lambda items: dict.fromkeys(items).keys(), b"r": lambda items: range(*items),
    b"c": lambda items: complex(*items), b"w": lambda items: slice(*items),
}  # fmt: skip
_NUMPY_KINDS = "biufcSUmM"

Handle = Callable[[Any], int]
Opaque = Callable[[int, str], Any]


def encode(value: Any, handle: Handle) -> bytes:
    """Raises ValueError for an iterator without end, RecursionError for a value that contains itself."""
    parts: list[bytes] = []
    _write(value, parts, handle)
    return b"".join(parts)


def _write(value: Any, parts: list[bytes], handle: Handle) -> None:
    kind = type(value)
    if value is None or kind is bool:
        parts.append({None: b"n", True: b"T", False: b"F"}[value])
    elif kind is int:
        _block(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), parts)
    elif kind is float:
        parts += (b"f", struct.pack("<d", value))
    elif kind is str:
        _block(b"s", value.encode("utf-8", "surrogatepass"), parts)
    elif kind is bytes or kind is bytearray:
        _block(b"b" if kind is bytes else b"B", bytes(value), parts)
    elif kind in _SEQUENCES:
        _items(_SEQUENCES[kind], value, parts, handle)
    elif kind is complex:
        _items(b"c", (value.real, value.imag), parts, handle)
    elif kind is range or kind is slice:
        _items(b"r" if kind is range else b"w", (value.start, value.stop, value.step), parts, handle)
    elif isinstance(value, dict) and kind.__module__ in ("builtins", "collections"):
        _items(b"d", [part for item in dict.items(value) for part in item], parts, handle)
    elif kind.__module__ == "numpy" and _is_numeric(value):
        array: Any = value
        _items(b"a" if array.ndim else b"g", (array.dtype.str, array.shape, array.tobytes()), parts, handle)
    elif isinstance(value, tuple) and hasattr(kind, "_fields"):
        _items(b"t", tuple.__iter__(value), parts, handle)
    elif kind.__module__ in ("builtins", "itertools") and (
        hasattr(kind, "__next__") or hasattr(kind, "mapping")
    ):
        _items(b"K" if hasattr(kind, "isdisjoint") else b"I", value, parts, handle)
    else:
        _block(b"o", f"{handle(value)} {kind.__name__}".encode("utf-8", "backslashreplace"), parts)


def _is_numeric(value: Any) -> bool:
    return hasattr(value, "tobytes") and value.dtype.kind in _NUMPY_KINDS


def _block(tag: bytes, data: bytes, parts: list[bytes]) -> None:
    parts += (tag, _SIZE.pack(len(data)), data)


def _items(tag: bytes, values: Iterable[Any], parts: list[bytes], handle: Handle) -> None:
    items = []
    for item in values:
        items.append(item)
        if len(items) > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} items; strict mode passes no more of one value")
    parts += (tag, _SIZE.pack(len(items)))
    for item in items:
        _write(item, parts, handle)


def decode(data: bytes, opaque: Opaque) -> Any:
    """Raises ValueError, TypeError or another Exception for what `encode` cannot have written."""
    value, end = _read(data, 0, opaque)
    if end != len(data):
        raise ValueError("bytes are left over")
    return value


def _read(data: bytes, at: int, opaque: Opaque) -> tuple[Any, int]:
    tag, at = data[at : at + 1], at + 1
    if tag in b"nTF" and tag:
        return {b"n": None, b"T": True, b"F": False}[tag], at
    if tag == b"f":
        return struct.unpack_from("<d", data, at)[0], at + 8
    (size,) = _SIZE.unpack_from(data, at)
    at += _SIZE.size
    if size > len(data) - at:
        raise ValueError(f"a part of {size} in {len(data) - at} bytes")
    if tag in b"isbBo":
        return _block_value(tag, data[at : at + size], opaque), at + size
    items = []
    for _ in range(size):
        item, at = _read(data, at, opaque)
        items.append(item)
    if tag == b"d":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return (_numpy_value(tag, *items) if tag in b"ag" else _BUILDERS[tag](items)), at


def _block_value(tag: bytes, block: bytes, opaque: Opaque) -> Any:
    if tag == b"i":
        return int.from_bytes(block, "little", signed=True)
    if tag == b"s":
        return block.decode("utf-8", "surrogatepass")
    if tag == b"o":
        number, _, name = block.decode().partition(" ")
        return opaque(int(number), name)
    return block if tag == b"b" else bytearray(block)


def _numpy_value(tag: bytes, dtype: Any, shape: Any, block: Any) -> Any:
    import numpy as np

    kind = np.dtype(str(dtype))
    if kind.kind not in _NUMPY_KINDS:
        raise ValueError(f"an array of {kind}")
    array = np.frombuffer(bytes(block), kind).reshape(tuple(int(length) for length in shape)).copy()
    return array if tag == b"a" else array[()]
