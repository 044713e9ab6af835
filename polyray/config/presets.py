"""Algorithm presets: `algorithm=@gspo` means the block of that name in presets.yaml.

A preset is expanded when the configuration is built, so a run's config.json has the block itself. Changes to a preset
are keys beside its name:

    algorithm: "@polychromic"
    algorithm: {preset: "@polychromic", set_size: 8}
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from polyray.config.base import StrictModel

FILE = Path(__file__).with_name("presets.yaml")
MARK = "@"
KEY = "preset"


class Preset(StrictModel):
    """One entry of presets.yaml."""

    description: str
    source: str
    also: tuple[str, ...] = ()
    """Overrides to give beside it; expansion leaves them out."""
    algorithm: dict[str, Any]


@cache
def presets() -> dict[str, Preset]:
    """Name -> preset, in the order of the file."""
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Preset(**entry) for name, entry in entries.items()}


def listing() -> str:
    """One line for each preset: name, description, source, usual overrides."""
    width = max(map(len, presets())) + len(MARK)
    return "\n".join(
        f"{MARK + name:{width}}  {preset.description} ({preset.source})"
        + (f"; use with {' '.join(preset.also)}" if preset.also else "")
        for name, preset in presets().items()
    )


def is_preset(value: Any) -> bool:
    """Whether `value` is written like a preset's name."""
    return isinstance(value, str) and value.startswith(MARK)


def expanded(value: Any) -> Any:
    """Replaces an algorithm preset by its block and applies the changes beside it; see `expanded_from`."""
    blocks = {name: preset.algorithm for name, preset in presets().items()}
    return expanded_from(value, blocks, "polyray train --list-algorithms lists all")


def expanded_from(value: Any, blocks: Mapping[str, dict[str, Any]], hint: str) -> Any:
    """Replaces the name of a preset by its block and applies the changes beside it.

    Anything else is returned as it is. Raises ValueError for an unknown preset, with `hint` unless a name is near.
    """
    changes = {KEY: value} if isinstance(value, str) else value
    if not isinstance(changes, dict) or KEY not in changes:
        return value
    given = str(changes[KEY])
    name = given.removeprefix(MARK)
    if name == given or name not in blocks:
        near = difflib.get_close_matches(name, blocks, n=1, cutoff=0.5)
        hint = f"did you mean {MARK}{near[0]}?" if near else hint
        raise ValueError(f"there is no preset {given!r}; {hint}")
    return _changed(blocks[name], {key: new for key, new in changes.items() if key != KEY})


def label(value: Any) -> str | None:
    """Name of an unexpanded algorithm: its preset, else its type."""
    name = (value.get(KEY) or value.get("type")) if isinstance(value, dict) else value
    return name.removeprefix(MARK) if isinstance(name, str) else None


def _changed(block: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Copies `block` with `changes` merged into it at every depth."""
    inner = {
        key: _changed(block[key], new) if isinstance(new, dict) and isinstance(block.get(key), dict) else new
        for key, new in changes.items()
    }
    return {**block, **inner}
