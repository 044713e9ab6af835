"""YAML without guessing: an unquoted value of a text field stays the text that was typed.

YAML 1.1 reads `on` as true, 12e5 as a text, 1_000 as 1000 and 2026-01-01 as a date. The right reading depends on the
field, which is known only once files and overrides are merged. Until then an unquoted value keeps its text:

    Plain(text="on", value=True)      `settled` makes "on" of it for a text field, and True for any other
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from polyray.config.presets import is_preset
from polyray.errors import ConfigError

NUMBERS = (int, float)


@dataclass(frozen=True)
class Plain:
    """An unquoted value that YAML does not read as a text, or the value of an override."""

    text: str
    value: Any


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value as YAML reads it; an unquoted value that is no text keeps its text."""
        value = super().construct_object(node, deep)
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return Plain(node.value, value) if is_plain and not isinstance(value, str) else value


def read_plain(text: str) -> Any:
    """The document in `text`. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def read_override(text: str) -> Any:
    """The value of KEY=TEXT: quoted texts without their quotes, everything else with what was typed.

    Text that is no YAML is kept as a text; `settled` refuses it for fields that are none. A preset's name, e.g.
    @gspo, is a text.
    """
    if is_preset(text):
        return text
    try:
        value = read_plain(text)
    except yaml.YAMLError as error:
        return Plain(text, error)
    if isinstance(value, str) and text.strip()[:1] in ("'", '"'):
        return value
    return Plain(text, value)


def settled(value: Any, annotations: Iterable[Any]) -> Any:
    """`value` as plain Python values, unquoted ones by the types of the fields that they are for.

    Raises ConfigError for an override that is no YAML, and whose field takes no text.
    """
    kinds = [kind for annotation in annotations for kind in _members(annotation)]
    if isinstance(value, Plain):
        return _of_plain(value, kinds)
    if isinstance(value, Mapping):
        named = {key.text if isinstance(key, Plain) else key: inner for key, inner in value.items()}
        return {key: settled(inner, _inside(kinds, named, key)) for key, inner in named.items()}
    if isinstance(value, list):
        items = [item for kind in kinds for item in _items(kind)]
        return [settled(inner, items) for inner in value]
    if isinstance(value, str) and _takes_numbers(kinds) and not _takes_text(kinds):
        return _as_number(value)
    return value


def _of_plain(plain: Plain, kinds: list[Any]) -> Any:
    value = plain.value.value if isinstance(plain.value, Plain) else plain.value
    if value is None and (type(None) in kinds or not _takes_text(kinds) or not plain.text.strip()):
        return None
    if plain.text in _choices(kinds):
        return plain.text
    if _takes_text(kinds) and not _takes_more(kinds):
        return plain.text
    if isinstance(value, yaml.YAMLError):
        raise ConfigError(f"override ...={plain.text}: the value is not valid YAML: {value}")
    return settled(value, kinds)


def _members(annotation: Any) -> list[Any]:
    """The types that a union or an annotated type is made of."""
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    return [annotation]


def _choices(kinds: list[Any]) -> set[Any]:
    return {choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)}


def _takes_text(kinds: list[Any]) -> bool:
    return str in kinds


def _takes_numbers(kinds: list[Any]) -> bool:
    return any(kind in NUMBERS for kind in kinds)


def _takes_more(kinds: list[Any]) -> bool:
    """Whether a field takes anything beside texts and nothing."""
    return any(kind not in (str, type(None)) and get_origin(kind) is not Literal for kind in kinds)


def _as_number(text: str) -> Any:
    """YAML 1.1 reads 2e-3 as a text."""
    try:
        return float(text)
    except ValueError:
        return text


def _inside(kinds: list[Any], mapping: Mapping[Any, Any], key: Any) -> list[Any]:
    """The annotations of what a mapping has under `key`; of a union's members those that `type` names."""
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    tag = mapping.get("type")
    tag = tag.text if isinstance(tag, Plain) else tag
    named = [model for model in models if tag and _tag(model) == tag]
    fields = [model.model_fields[key] for model in named or models if key in model.model_fields]
    values = [get_args(kind)[1] for kind in kinds if get_origin(kind) is dict]
    return [field.annotation for field in fields] + values


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["type"].default if "type" in model.model_fields else None


def _items(kind: Any) -> list[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    is_list = origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, typing.Sequence))
    return [argument for argument in arguments if argument is not Ellipsis] if is_list else []
