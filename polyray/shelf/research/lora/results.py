"""All that is said of some adapters: one entry per module, for tables, figures and files.

Numbers that do not exist (the cosine of nothing, a p-value without seeds) are None. Called by polyray analyze.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyray.errors import ConfigError
from polyray.metrics import holm
from polyray.shelf.research.lora.drift import drift
from polyray.shelf.research.lora.null import arm_difference
from polyray.shelf.research.lora.overlaps import Overlap, overlap
from polyray.shelf.research.lora.spectra import Decomposition, decompose, spectrum
from polyray.shelf.research.lora.updates import Adapter, Place, check_one_base


@dataclass(frozen=True, slots=True)
class Arm:
    """Adapters that differ in their seed alone.

    Example:
        Arm("polychromic", (Adapter(...), Adapter(...), Adapter(...)))
    """

    name: str
    seeds: tuple[Adapter, ...]


def lora_results(
    adapters: Sequence[Adapter],
    since: Adapter | None = None,
    arms: Sequence[Arm] = (),
    checkpoints: Sequence[Adapter] = (),
) -> dict[str, Any]:
    """Spectra of every adapter, overlaps of every two, every two arms against the null of their seeds, and the drift
    along `checkpoints`; everything of what came after `since`, where that is given.

    Raises ConfigError where bases differ, or there is no adapter.
    """
    everything = [*adapters, *(seed for arm in arms for seed in arm.seeds), *checkpoints]
    if not everything:
        raise ConfigError("no adapter to analyse; name at least one")
    check_one_base([*everything, *([since] if since is not None else [])])

    def beyond(given: Sequence[Adapter]) -> list[Adapter]:
        return [adapter.since(since) for adapter in given] if since is not None else list(given)

    modules, overlaps = _decomposed(beyond(adapters))
    return {
        "base_sha256": next((adapter.base_sha256 for adapter in everything if adapter.base_sha256), None),
        "since": None if since is None else since.name,
        "adapters": [
            {"name": given.name, "rank": given.rank, "modules": modules[index]}
            for index, given in enumerate(adapters)
        ],
        "overlaps": [
            {"first": adapters[one].name, "second": adapters[two].name, "modules": entries}
            for (one, two), entries in overlaps.items()
        ],
        "arms": [
            {
                "first": one.name,
                "second": two.name,
                "modules": _differences(beyond(one.seeds), beyond(two.seeds)),
            }
            for one, two in itertools.combinations(arms, 2)
        ],
        "drift": {
            "checkpoints": [checkpoint.name for checkpoint in checkpoints],
            "modules": list(_drifts(beyond(checkpoints))) if len(checkpoints) > 1 else [],
        },
    }


def as_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line per module; lists of numbers are separated by spaces, what does not exist is empty."""
    if not entries:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(entries[0]), lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({key: _cell(value) for key, value in entry.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    return (
        " ".join("" if each is None else repr(each) for each in value) if isinstance(value, list) else value
    )


def _where(place: Place) -> dict[str, Any]:
    return {"layer": place.layer, "module": place.module}


def _decomposed(
    adapters: Sequence[Adapter],
) -> tuple[list[list[dict[str, Any]]], dict[tuple[int, int], list[dict[str, Any]]]]:
    """(per adapter its spectra, per two adapters their overlaps), module by module: bases are large, and those of a
    module are needed for every pair."""
    modules: list[list[dict[str, Any]]] = [[] for _ in adapters]
    overlaps = {pair: [] for pair in itertools.combinations(range(len(adapters)), 2)}
    for place in sorted({place for adapter in adapters for place in adapter.updates}):
        found = {
            index: decompose(adapter.updates[place])
            for index, adapter in enumerate(adapters)
            if place in adapter.updates
        }
        for index, decomposition in found.items():
            factor_norms = adapters[index].factor_norms.get(place, (None, None))
            modules[index].append(_where(place) | _spectrum_entry(decomposition, *factor_norms))
        for one, two in itertools.combinations(found, 2):
            overlaps[one, two].append(_where(place) | _overlap_entry(overlap(found[one], found[two])))
    return modules, overlaps


def _spectrum_entry(
    decomposition: Decomposition, norm_a: float | None, norm_b: float | None
) -> dict[str, Any]:
    found = spectrum(decomposition.singular_values)
    return {
        "norm": found.norm,
        "norm_a": norm_a,
        "norm_b": norm_b,
        "spectral_norm": found.spectral_norm,
        "rank": found.rank,
        "effective_rank": found.effective_rank,
        "stable_rank": found.stable_rank,
        "singular_values": list(found.singular_values),
    }


def _overlap_entry(found: Overlap) -> dict[str, Any]:
    entry: dict[str, Any] = {"cosine": _number(found.cosine)}
    for name, side in (("written", found.written), ("read", found.read)):
        entry[name] = _number(side.overlap)
        entry[f"{name}_by_chance"] = _number(side.by_chance)
        entry[f"{name}_angles"] = list(side.angles)
    return entry


def _differences(first: Sequence[Adapter], second: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Holm's correction is over the modules of these two arms."""
    shared = set.intersection(*(set(adapter.updates) for adapter in [*first, *second]))
    entries = []
    for place in sorted(shared):
        found = arm_difference(
            [adapter.updates[place] for adapter in first], [adapter.updates[place] for adapter in second]
        )
        entries.append(
            _where(place)
            | {
                "between": _number(found.between),
                "within": _number(found.within),
                "excess": _number(found.between - found.within),
                "p": _number(found.p),
                "smallest_p": _number(found.smallest_p),
                "p_adjusted": None,
            }
        )
    tested = [entry for entry in entries if entry["p"] is not None]
    for entry, adjusted in zip(tested, holm([entry["p"] for entry in tested]) if tested else [], strict=True):
        entry["p_adjusted"] = float(adjusted)
    return entries


def _drifts(checkpoints: Sequence[Adapter]) -> Iterator[dict[str, Any]]:
    shared = set.intersection(*(set(checkpoint.updates) for checkpoint in checkpoints))
    for place in sorted(shared):
        found = drift([checkpoint.updates[place] for checkpoint in checkpoints])
        yield _where(place) | {
            "norm": list(found.norm),
            "from_first": list(found.from_first),
            "moved": list(found.moved),
            "turned": [_number(value) for value in found.turned],
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
