"""Ablation of an adapter: the adapter without each layer, to measure the loss of the policy.

An update is removed by setting its B to 0, which leaves the base's weights there and everything else unchanged.
The adapters are written as separate directories, so that an evaluation samples them like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch

from polyray.models.adapter_files import read_adapter, write_adapter
from polyray.shelf.research.lora.updates import Place
from polyray.weight_sync.merge import PEFT_PREFIX, adapter_from_bytes

Parts = Literal["layer", "module"]
OF_B = ".lora_B.weight"


def ablated(content: bytes, by: Parts) -> Iterator[tuple[str, bytes]]:
    """(what is taken out, the adapter without it), for every layer, or every kind of module.

    `content` is a safetensors file in PEFT's names. Raises WeightSyncError for other bytes.
    """
    tensors = adapter_from_bytes(content)
    parts = {key: _part(key, by) for key in tensors if key.endswith(OF_B)}
    for part in _sorted(parts):
        without = {
            key: tensor.clone().zero_() if parts.get(key) == part else tensor
            for key, tensor in tensors.items()
        }
        yield part, safetensors.torch.save(without)


def ablated_directories(adapter: Path, base_sha256: str, into: Path, by: Parts) -> dict[str, Path]:
    """'without layer 3' -> where below `into` it belongs; nothing is written.

    Raises ConfigError for what is no adapter of this base.
    """
    content, _ = read_adapter(adapter, base_sha256)
    parts = {key: _part(key, by) for key in adapter_from_bytes(content) if key.endswith(OF_B)}
    return {f"without {part}": _directory(into, part) for part in _sorted(parts)}


def write_ablated(adapter: Path, base_sha256: str, into: Path, by: Parts) -> None:
    """The adapters of `ablated_directories`."""
    content, config = read_adapter(adapter, base_sha256)
    for part, without in ablated(content, by):
        write_adapter(without, config, _directory(into, part), {"base_sha256": base_sha256, "without": part})


def _directory(into: Path, part: str) -> Path:
    return into / part.replace(" ", "-").replace(".", "-")


def _sorted(parts: Mapping[str, str]) -> list[str]:
    return sorted(set(parts.values()), key=_natural)


def _part(key: str, by: Parts) -> str:
    place = Place.of(key.removeprefix(PEFT_PREFIX).removesuffix(OF_B))
    if by == "module":
        return place.module
    return "outside layers" if place.layer < 0 else f"layer {place.layer}"


def _natural(part: str) -> tuple[int, str]:
    """Layer 10 after layer 9."""
    last = part.rpartition(" ")[2]
    return (int(last), part) if last.isdigit() else (-1, part)
