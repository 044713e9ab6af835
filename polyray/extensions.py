"""Names under which packages above the core offer what the core uses; the core does not import them.

`polyray/shelf/__init__.py` calls `register`; the core calls `find`, which imports the module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from polyray.errors import ConfigError

Kind = Literal["reward", "checker", "live_judge", "judge_spend"]

_OFFERED: dict[tuple[Kind, str], tuple[str, str]] = {}


def register(kind: Kind, name: str, target: str, extra: str) -> None:
    """Offers `target` ("module:attribute") as `name`; `extra` of the wheel brings the packages that it needs."""
    _OFFERED[kind, name] = target, extra


def names(kind: Kind) -> list[str]:
    """Names that are offered, sorted."""
    import_module("polyray.shelf")
    return sorted(name for of_kind, name in _OFFERED if of_kind == kind)


def find(kind: Kind, name: str) -> Any:
    """Imports what is offered as `name`. Raises ConfigError that names the extra where a package is missing."""
    import_module("polyray.shelf")
    target, extra = _OFFERED[kind, name]
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "polyray").partition(".")[0] == "polyray":
            raise
        raise ConfigError(
            f"{kind} {name!r} needs the package {error.name}; install it with pip install 'polyray[{extra}]'"
        ) from None
