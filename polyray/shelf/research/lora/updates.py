"""Adapters as what they add to the base: Delta W = scale B A of every module, kept as factors.

A and B are not unique (B M and M^-1 A give the same update), so everything is said of the product. The full matrix is
never made: an update of rank r is L R with L [out, r] and R [r, in], and so is the difference of two, with both
ranks together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyray.errors import ConfigError, WeightSyncError
from polyray.models.adapter import AdapterShape
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import MANIFEST
from polyray.weight_sync.merge import adapter_from_bytes, paired_factors

Floats = npt.NDArray[np.float64]
_IN_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A module of the network.

    Example:
        Place(layer=3, module="self_attn.q_proj")
    """

    layer: int
    """-1 for what belongs to no layer."""
    module: str
    """Name within the layer."""

    @classmethod
    def of(cls, weight: str) -> Place:
        """From the name of a weight, e.g. 'model.layers.3.self_attn.q_proj.weight'."""
        name = weight.removesuffix(".weight")
        found = _IN_LAYER.search(name)
        return cls(int(found[1]), found[2]) if found else cls(-1, name)


@dataclass(frozen=True, slots=True)
class Update:
    """Delta W = left @ right of one module.

    Example:
        Update(left=np.zeros((64, 8)), right=np.ones((8, 64)))
    """

    left: Floats
    """[out, r] float64, the scale included."""
    right: Floats
    """[r, in] float64."""

    def inner(self, other: Update) -> float:
        """Frobenius inner product of two updates of one module."""
        return float(np.sum((self.left.T @ other.left) * (self.right @ other.right.T)))

    def minus(self, other: Update) -> Update:
        """The difference; its rank is at most that of both together. Raises ConfigError for other shapes."""
        if self.shape != other.shape:
            raise ConfigError(f"updates of shapes {self.shape} and {other.shape} belong to different bases")
        return Update(np.hstack([self.left, -other.left]), np.vstack([self.right, other.right]))

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.left.shape[0], self.right.shape[1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's updates, and the identity of its base.

    Example:
        Adapter(name="runs/a/adapter", base_sha256="9f86d081...", rank=16, updates={Place(0, "mlp.up_proj"): ...},
                factor_norms={Place(0, "mlp.up_proj"): (4.1, .3)})
    """

    name: str
    base_sha256: str | None
    """sha256 of the base; None for an adapter of other software, which does not name its base."""
    rank: int
    updates: Mapping[Place, Update]
    factor_norms: Mapping[Place, tuple[float, float]]
    """(of A, of B), Frobenius: they belong to these factors, and other factors of the same update have others."""

    def since(self, earlier: Adapter) -> Adapter:
        """Changes by training since `earlier`, e.g. RL to its warm start. Raises ConfigError for another base."""
        check_one_base([self, earlier])
        updates = {
            place: update.minus(earlier.updates[place]) if place in earlier.updates else update
            for place, update in self.updates.items()
        }
        gone = {
            place: Update(-update.left, update.right)
            for place, update in earlier.updates.items()
            if place not in updates
        }
        return Adapter(
            f"{self.name} since {earlier.name}",
            self.base_sha256 or earlier.base_sha256,
            self.rank + earlier.rank,
            dict(sorted({**updates, **gone}.items())),
            self.factor_norms,
        )


def read_adapter_updates(directory: Path, name: str | None = None) -> Adapter:
    """The adapter in `directory`, called `name` (default: the directory). Raises ConfigError for what is no plain
    LoRA adapter, is damaged, or holds values that are not finite."""
    base_sha256 = _base_of(directory)
    content, config = read_adapter(directory, base_sha256 or "")
    try:
        shape = AdapterShape.from_peft(config)
        factors = paired_factors(adapter_from_bytes(content))
    except WeightSyncError as error:
        raise ConfigError(f"{directory}: {error}") from error
    updates, norms = {}, {}
    for weight, (a, b) in sorted(factors.items()):
        place = Place.of(weight)
        right, left = a.double().numpy(), b.double().numpy()
        updates[place] = Update(shape.scale * left, right)
        norms[place] = (float(np.linalg.norm(right)), float(np.linalg.norm(left)))
    return Adapter(name or str(directory), base_sha256, shape.rank, dict(sorted(updates.items())), norms)


def check_one_base(adapters: Sequence[Adapter]) -> None:
    """Ranks may differ, bases may not. Raises ConfigError naming the two that disagree."""
    first = adapters[0]
    for other in adapters[1:]:
        known = first.base_sha256 is not None and other.base_sha256 is not None
        if known and first.base_sha256 != other.base_sha256:
            raise ConfigError(
                f"{first.name} belongs to the base {str(first.base_sha256)[:12]} and {other.name} to "
                f"{str(other.base_sha256)[:12]}; only adapters of one base can be compared"
            )
        for place in first.updates.keys() & other.updates.keys():
            one, two = first.updates[place].shape, other.updates[place].shape
            if one != two:
                raise ConfigError(
                    f"{place.module} of layer {place.layer} has the shape {one} in {first.name} and {two} in "
                    f"{other.name}; only adapters of one base can be compared"
                )


def _base_of(directory: Path) -> str | None:
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return None
    return json.loads(manifest.read_text(encoding="utf-8")).get("base_sha256")
