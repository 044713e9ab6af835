"""Names under which packages above the core offer what the core uses; the core does not import them.

`polyray/shelf/__init__.py` calls `register`; the core calls `find`, which imports the module on first use. A package
of an extra that is not installed is a ConfigError with the line that installs it: `naming_the_extra`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

from polyray.errors import ConfigError

Kind = Literal["reward", "checker", "live_judge", "judge_spend"]

EXTRAS = {
    "anthropic": ("judge",),
    "openai": ("judge",),
    "datasketch": ("preferences",),
    "py3langid": ("preferences",),
    "kaleido": ("research",),
    "sklearn": ("research",),
    "vllm": ("cpu", "gpu"),
}
"""Package, as it is imported -> extras of the wheel that hold it, each from requirements/EXTRA.in."""

_OFFERED: dict[tuple[Kind, str], str] = {}


def register(kind: Kind, name: str, target: str) -> None:
    """Offers `target` ("module:attribute") as `name`."""
    _OFFERED[kind, name] = target


def names(kind: Kind) -> list[str]:
    """Names that are offered, sorted."""
    import_module("polyray.shelf")
    return sorted(name for of_kind, name in _OFFERED if of_kind == kind)


def find(kind: Kind, name: str) -> Any:
    """Imports what is offered as `name`. Raises ConfigError that names the extra where a package is missing."""
    import_module("polyray.shelf")
    module, _, attribute = _OFFERED[kind, name].partition(":")
    with naming_the_extra():
        return getattr(import_module(module), attribute)


@contextmanager
def naming_the_extra() -> Iterator[None]:
    """Turns the missing package of an extra into a ConfigError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise ConfigError(f"the package {package} is missing; {install(*EXTRAS[package])}") from None


def install(*extras: str) -> str:
    """Command that installs one of these extras."""
    return " or ".join(f"pip install 'polyray[{extra}]'" for extra in extras)
