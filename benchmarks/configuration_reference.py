"""Write docs/configuration.md from the configuration models: every field with type, default and meaning.

    python -m benchmarks.configuration_reference

A test compares the file with what this prints.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from polyray.config.base import StrictModel
from polyray.config.curate import CurateConfig
from polyray.config.generation import GenerationServeConfig
from polyray.config.judge import JudgeConfig
from polyray.config.reward_model import TrainRewardConfig
from polyray.config.reward_validation import RewardValidationConfig
from polyray.config.run import EvaluateConfig, PretrainConfig, QuickstartConfig, TrainConfig
from polyray.config.serve import RewardServeConfig
from polyray.config.sft import SftConfig
from polyray.config.sweep import SweepConfig

FILE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
COMMANDS: dict[str, type[StrictModel]] = {
    "train": TrainConfig,
    "sft": SftConfig,
    "evaluate": EvaluateConfig,
    "sweep": SweepConfig,
    "serve, of a policy": GenerationServeConfig,
    "serve, of rewards": RewardServeConfig,
    "quickstart": QuickstartConfig,
    "pretrain": PretrainConfig,
    "curate data": CurateConfig,
    "train_reward": TrainRewardConfig,
    "evaluate reward": RewardValidationConfig,
    "judge": JudgeConfig,
}
"""Heading -> the model of the file that the command reads."""
HEAD = """\
# Configuration

Every key of every YAML file, generated from the models in `polyray/config/` by
`python -m benchmarks.configuration_reference`. A test fails while this page differs from the models.

A key is also an override on the command line: `learner.steps=20`. A default of *required* means that the file must
set it. `polyray NAME CONFIG --check` prints the values that a run would use. [commands.md](commands.md) explains the
commands, [hyper-parameters.md](hyper-parameters.md) which keys to change first.
"""
BOUNDS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


def reference() -> str:
    """Return the whole page."""
    seen: set[type[BaseModel]] = set()
    parts = [HEAD]
    for command, model in COMMANDS.items():
        parts.append(f"## Files of `{command.partition(',')[0]}`{command.partition(',')[2]}\n")
        for part in sections(model, seen):
            parts.append(section(part))
    return "\n".join(parts)


def sections(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield a model, the models of its fields and its base classes, each once on the page."""
    if model in seen or model in (BaseModel, StrictModel):
        return
    seen.add(model)
    yield model
    for base in model.__bases__:
        if issubclass(base, BaseModel):
            yield from sections(base, seen)
    for name in own_fields(model):
        for part in models_in(model.model_fields[name]):
            yield from sections(part, seen)


def section(model: type[BaseModel]) -> str:
    """Return heading, summary and table of one model."""
    lines = [f"### {title(model)}", ""]
    if summary := summary_text(model):
        lines += [summary, ""]
    bases = [
        base
        for base in model.__bases__
        if issubclass(base, BaseModel) and base not in (BaseModel, StrictModel)
    ]
    if bases:
        lines += ["Also takes the keys of " + ", ".join(map(link, bases)) + ".", ""]
    rows = [row(name, model.model_fields[name]) for name in own_fields(model)]
    if rows:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def summary_text(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's docstring."""
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())


def summary_of(field: FieldInfo) -> str:
    """Return what its type says of a field: the summary of its model, or how one of several is chosen."""
    models = list(models_in(field))
    if len(models) > 1:
        return "one of these, by its `type`"
    if models:
        return summary_text(models[0])
    is_constant = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    return "selects this kind" if is_constant else ""


def own_fields(model: type[BaseModel]) -> list[str]:
    """Return the fields that the class itself declares, in their order."""
    declared = inspect.get_annotations(model)
    return [name for name in model.model_fields if name in declared]


def row(name: str, field: FieldInfo) -> str:
    """Return one line of a table."""
    bounds = ", ".join(bound_text(item) for item in field.metadata if bound_text(item))
    kind = type_text(field.annotation) + (f", {bounds}" if bounds else "")
    meaning = " ".join((field.description or summary_of(field)).split())
    cells = (f"`{name}`", kind, default_text(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def bound_text(item: Any) -> str:
    """Return a bound as text; empty for other metadata."""
    for kind, (sign, attribute) in BOUNDS.items():
        if isinstance(item, kind):
            return f"{sign} {getattr(item, attribute):g}"
    if isinstance(item, MinLen) and item.min_length:
        return f"at least {item.min_length}"
    return f"at most {item.max_length}" if isinstance(item, MaxLen) else ""


def type_text(annotation: Any) -> str:
    """Return a type as a reader of YAML knows it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = ", ".join(bound_text(item) for item in arguments[1:] if bound_text(item))
        return type_text(arguments[0]) + (f" {bounds}" if bounds else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        parts = [type_text(part) for part in arguments if part is not types.NoneType]
        return ", ".join(parts) + (" or null" if types.NoneType in arguments else "")
    if origin is tuple:
        inside = [part for part in arguments if part is not Ellipsis]
        return "list of " + " and ".join(dict.fromkeys(type_text(part) for part in inside))
    if origin is list:
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"map of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return link(annotation)
    names = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        types.NoneType: "null",
        Any: "any",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(field: FieldInfo) -> str:
    """Return the default of a field."""
    if field.is_required():
        return "*required*"
    if field.default_factory is not None:
        return (
            "see its table"
            if any(models_in(field))
            else "the current directory"
            if field.annotation is str
            else "empty"
        )
    default = field.default
    if default is None or default is PydanticUndefined:
        return "null"
    if isinstance(default, BaseModel):
        kind = getattr(default, "type", None)
        return f"`{kind}`" if kind else "see its table"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, (tuple, list, dict)):
        return f"`{list(default) if not isinstance(default, dict) else default}`" if default else "empty"
    if isinstance(default, str):
        return "`" + default.replace("\n", "\\n") + "`" if default else "empty"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def models_in(field: FieldInfo | Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field's type names."""
    annotation = field.annotation if isinstance(field, FieldInfo) else field
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def link(model: type[BaseModel]) -> str:
    """Return a link to a model's section."""
    kind = model.model_fields.get("type")
    label = (
        title(model)
        if kind is None or kind.is_required() or len(get_args(kind.annotation)) > 1
        else f"`{kind.default}`"
    )
    return f"[{label}](#{title(model).lower().replace(' ', '-')})"


@cache
def title(model: type[BaseModel]) -> str:
    """Return the heading of a model: its name, with the module behind a name that is used twice."""
    others = {other for other in every_model() if other.__name__ == model.__name__ and other is not model}
    return f"{model.__name__} of {model.__module__.rpartition('.')[2]}" if others else model.__name__


@cache
def every_model() -> tuple[type[BaseModel], ...]:
    """Return all models of the page."""
    seen: set[type[BaseModel]] = set()
    return tuple(part for model in COMMANDS.values() for part in sections(model, seen))


def main() -> int:
    """Write the page."""
    FILE.write_text(reference(), encoding="utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
