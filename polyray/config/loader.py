"""YAML file + `key=value` overrides -> one validated model, or a ConfigError that says what to change."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from polyray.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


def load_config(model: type[ModelT], path: str | Path, overrides: Sequence[str] = ()) -> ModelT:
    """Reads `path`, applies the overrides in order, validates.

    Raises ConfigError naming the file, the key, the value, the limit and (for a misspelt key) the nearest
    known one.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        _apply_override(values, override)
    return build_config(model, values, source=str(path))


def read_value(path: str | Path, overrides: Sequence[str], key: str) -> Any:
    """One top-level value of a file with overrides, before it is known which model the file is of; None: none.

    Raises ConfigError where the file cannot be read.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        _apply_override(values, override)
    return values.get(key)


def build_config(model: type[ModelT], values: dict[str, Any], source: str = "configuration") -> ModelT:
    """Validates plain values as `model`; `source` is named in errors."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(item, model) for item in error.errors()]
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"no configuration file at {path}{hint}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}; a configuration is a mapping of keys to values"
        )
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"override {override!r} is not key=value, e.g. learner.steps=100")
    node = values
    for part in parts[:-1]:
        child = node.get(part)
        if not isinstance(child, dict):
            child = {}
            node[part] = child
        node = child
    try:
        node[parts[-1]] = _scalar(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 reads 2e-3 as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(item: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(_follow(model, location)[0])
    if item["type"] == "extra_forbidden":
        known = [name for candidate in _follow(model, location[:-1])[1] for name in candidate.model_fields]
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{key}: this key is required"
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
