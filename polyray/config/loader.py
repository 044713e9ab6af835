"""YAML file + `key=value` overrides -> one validated model, or a ConfigError that says what to change."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from polyray.config.paths import absolute, relative_to
from polyray.config.plain_values import Plain, read_override, read_plain, settled
from polyray.config.presets import KEY, MARK, is_preset
from polyray.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)

LISTED_FILES = 3
"""Files named beside one that is missing."""
MONITORED: Mapping[str, tuple[str, ...]] = {
    "mismatch_alarm": ("@mismatch", "@low_ess"),
    "over_optimisation": ("@over_optimisation",),
    "dynamics.collapse_alarm": ("@collapse",),
}
"""Key of a former alarm -> presets of `monitors` that replace it."""


def load_config(model: type[ModelT], path: str | Path, overrides: Sequence[str] = ()) -> ModelT:
    """Reads `path`, applies the overrides in order, validates.

    Raises ConfigError naming the file, the key, the value, the limit and (for a misspelt key) the nearest
    known one.
    """
    return build_config(model, settled(_merged(path, overrides), [model]), source=str(path))


def read_value(path: str | Path, overrides: Sequence[str], key: str) -> Any:
    """One top-level value of a file with overrides, before it is known which model the file is of; None: none.

    Raises ConfigError where the file cannot be read.
    """
    return settled(_merged(path, overrides), ()).get(key)


def merged_values(
    model: type[BaseModel], base: str | Path | Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values of a file of `model`, or of a mapping, with `changes`: dotted key -> value.

    A mapping without a `type` changes the keys that it has; any other value takes the place of the old one.
    """
    values = _merged(base, ()) if isinstance(base, str | Path) else deepcopy(dict(base))
    for key, value in changes.items():
        _merge(values, key.split("."), value)
    return settled(values, [model])


def build_config(model: type[ModelT], values: dict[str, Any], source: str = "configuration") -> ModelT:
    """Validates plain values as `model`; `source` is named in errors, relative paths are below `base_dir`."""
    given = values.get("base_dir")
    if isinstance(given, str):
        values = {**values, "base_dir": absolute(given)}
    try:
        with relative_to(values["base_dir"]) if isinstance(given, str) else nullcontext():
            return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(item, model) for item in error.errors()]
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from None


def _merged(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The file with its overrides; unquoted values keep their text (plain_values.py)."""
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    return values


def _read_yaml(name: str | Path) -> dict[str, Any]:
    path = Path(absolute(str(name)))
    if not path.is_file():
        there = sorted(file.name for file in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.name, there, n=LISTED_FILES, cutoff=0.4) or there[:LISTED_FILES]
        hint = f"; near it: {', '.join(str(Path(name).with_name(file)) for file in near)}" if near else ""
        raise ConfigError(f"no configuration file at {name}{hint}")
    try:
        values = read_plain(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        hint = f'; a preset is written in quotes: "{MARK}NAME"' if f"'{MARK}'" in str(error) else ""
        raise ConfigError(f"{name} is not valid YAML: {error}{hint}") from None
    if settled(values, ()) is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name} holds a {type(settled(values, ())).__name__}; a configuration is a mapping of keys to values"
        )
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"override {override!r} is not key=value, e.g. learner.steps=100")
    _put(values, parts, read_override(text))


def _put(values: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Sets the value at a dotted key; sections on the way are made where they are missing."""
    node = values
    for part in parts[:-1]:
        child = node.get(part)
        child = child.value if isinstance(child, Plain) else child
        child = {KEY: child} if is_preset(child) else child
        node[part] = child = child if isinstance(child, dict) else {}
        node = child
    node[parts[-1]] = value


def _merge(values: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    if isinstance(value, Mapping) and value and "type" not in value:
        for key, inner in value.items():
            _merge(values, [*parts, str(key)], inner)
    else:
        _put(values, parts, value)


def _explain(item: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(_follow(model, location)[0])
    if item["type"] == "extra_forbidden":
        if key in MONITORED:
            entries = ", ".join(f'"{name}"' for name in MONITORED[key])
            changed = f'{{preset: "{MONITORED[key][0]}", action: stop}}'
            return (
                f"unknown key {key!r}; did you mean 'monitors'? Write monitors: [{entries}]; an entry like {changed} "
                "changes a preset"
            )
        known = [name for candidate in _follow(model, location[:-1])[1] for name in candidate.model_fields]
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        section = key.rpartition(".")[0]
        right = ".".join([*filter(None, [section]), *near])
        hint = f"did you mean {right!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{key}: this key is required"
    if item["type"] == "union_tag_not_found":
        kinds = [str(candidate.model_fields["type"].default) for candidate in _follow(model, location)[1]]
        return f"{key}={item['input']!r} names no type; give {key}.type as well, one of {', '.join(kinds)}"
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}={item['input']!r}: {message}"


def _follow(model: type[BaseModel], location: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """(the location as it is written in a file, the models it leads to), by the fields' annotations.

    pydantic puts the `type` of a union's member into the location, where the file has no key.
    """
    written: list[str] = []
    current: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [c for c in current if "type" in c.model_fields and c.model_fields["type"].default == part]
        owners = [c for c in current if part in c.model_fields]
        if owners or not tagged:
            written.append(part)
        inside = [found for owner in owners for found in _models_in(owner.model_fields[part].annotation)]
        current = inside or (tagged if not owners else []) or current
    return written, current


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models_in(argument)]
