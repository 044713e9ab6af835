"""Sources of adapters: the directories that an AdapterSpec names. Reads directory entries, loads nothing.

path: runs/sft/adapter     one adapter, called `sft` (or by its `name`)
run: runs/first            its final adapter, called `first`; with `version: 17` that version, policy-v17
follow: runs/first         the newest version and the best one, as they come: policy-v17, aliases latest and best
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polyray.config.generation import AdapterSpec, GenerationServeConfig
from polyray.errors import ConfigError
from polyray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from polyray.models.base_files import MANIFEST
from polyray.runs.run_directory import RunPaths
from polyray.serving.generation.errors import InvalidRequest

BASE = "base"
"""The model id of the base itself."""
LATEST, BEST = "latest", "best"
RESERVED = (BASE, LATEST, BEST)
DEFAULT_PREFIX = "policy"
PLACES_OF_A_RUN = 3
"""Adapters of a followed run: its best version, its newest one, and the next one before it takes over."""
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """One adapter to be served.

    Example:
        AdapterSource(model="policy-v17", directory=Path("runs/first/versions/17"), version=17)
    """

    model: str
    directory: Path
    version: int | None = None

    @property
    def sha256(self) -> str | None:
        """sha256 of the adapter, from its manifest; None for one of other software."""
        try:
            manifest = json.loads((self.directory / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return manifest.get("adapter_sha256")


@dataclass(frozen=True, slots=True)
class Followed:
    """Current adapters of a followed run.

    Example:
        Followed(latest=AdapterSource(...), best=None)
    """

    latest: AdapterSource | None
    best: AdapterSource | None


def key_of(spec: AdapterSpec) -> str:
    """Key of an adapter among the served ones: its model id, or the prefix of a followed run's."""
    if spec.follow is not None:
        return spec.name or DEFAULT_PREFIX
    return source_of(spec).model


def source_of(spec: AdapterSpec) -> AdapterSource:
    """The adapter of `path` or `run`. Raises InvalidRequest where it cannot be called so."""
    if spec.path is not None:
        directory = Path(spec.path)
        own = directory.resolve()
        default = own.parent.name if own.name == "adapter" else own.name
        return AdapterSource(_checked(spec.name or default), directory)
    assert spec.run is not None
    paths = RunPaths(Path(spec.run))
    if spec.version is None:
        return AdapterSource(_checked(spec.name or paths.root.resolve().name), paths.adapter)
    return _version(paths, spec.version, spec.name or DEFAULT_PREFIX)


def followed(spec: AdapterSpec) -> Followed:
    """The newest and the best version of a followed run; None where there is none yet."""
    assert spec.follow is not None
    paths, prefix = RunPaths(Path(spec.follow)), spec.name or DEFAULT_PREFIX
    numbers = [int(entry.name) for entry in _entries(paths.versions) if entry.name.isdecimal()]
    latest = _version(paths, max(numbers), prefix) if numbers else None
    best = None
    if is_adapter(paths.best) and (paths.best / MANIFEST).is_file():
        manifest = json.loads((paths.best / MANIFEST).read_text(encoding="utf-8"))
        best = AdapterSource(f"{prefix}-v{manifest['version']}", paths.best, manifest["version"])
    return Followed(latest, best)


def aliases_of(spec: AdapterSpec) -> tuple[str, str]:
    """Aliases of the newest and the best version of a followed run."""
    return (LATEST, BEST) if spec.name is None else (f"{spec.name}-{LATEST}", f"{spec.name}-{BEST}")


def check_place(directory: Path, roots: Sequence[str]) -> None:
    """Raises InvalidRequest for a directory outside `roots`, links followed."""
    place = directory.resolve()
    if not any(place.is_relative_to(Path(root).resolve()) for root in roots):
        raise InvalidRequest(
            f"{str(directory)!r} is outside of adapter_roots={list(roots)}; move the adapter there, or add its "
            "directory to adapter_roots and start the service again"
        )


def place_of(spec: AdapterSpec) -> Path:
    """The directory that a spec points at."""
    return Path(spec.path or spec.run or spec.follow or "")


def is_adapter(directory: Path) -> bool:
    """Whether it has an adapter's two files."""
    return (directory / CONFIG_FILE).is_file() and (directory / WEIGHTS_FILE).is_file()


def check_adapter(source: AdapterSource, max_rank: int) -> None:
    """Raises InvalidRequest where there is no adapter, or one of a rank that the engine was not built for."""
    if not is_adapter(source.directory):
        raise InvalidRequest(
            f"{str(source.directory)!r} is not an adapter: {CONFIG_FILE} or {WEIGHTS_FILE} is missing; give a "
            "directory in PEFT format, or a run that has finished"
        )
    try:
        rank = json.loads((source.directory / CONFIG_FILE).read_text(encoding="utf-8")).get("r")
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{source.directory / CONFIG_FILE} cannot be read: {error}") from None
    if isinstance(rank, int) and rank > max_rank:
        raise InvalidRequest(
            f"{str(source.directory)!r} has rank {rank}, the engine was built for at most {max_rank}; set "
            f"max_lora_rank={rank} and start the service again"
        )


def _version(paths: RunPaths, version: int, prefix: str) -> AdapterSource:
    return AdapterSource(_checked(f"{prefix}-v{version}"), paths.versions / str(version), version)


def _entries(directory: Path) -> list[Path]:
    try:
        return [entry for entry in directory.iterdir() if is_adapter(entry)]
    except OSError:
        return []


def _checked(model: str) -> str:
    if not MODEL_ID.fullmatch(model):
        raise InvalidRequest(
            f"the adapter would be called {model!r}; give a `name` of letters, digits, '.', '_' and '-'"
        )
    if model in RESERVED:
        raise InvalidRequest(f"the name {model!r} is taken by the service itself; give another `name`")
    return model


def check_configured(config: GenerationServeConfig) -> None:
    """Raises ConfigError for adapters of a configuration that cannot all be served."""
    keys: list[str] = []
    needed = 0
    for at, spec in enumerate(config.adapters):
        try:
            keys.append(key_of(spec))
            check_place(place_of(spec), config.adapter_roots)
            if spec.follow is None:
                check_adapter(source_of(spec), config.max_lora_rank)
        except InvalidRequest as error:
            raise ConfigError(f"adapters.{at}: {error}") from None
        needed += 1 if spec.follow is None else PLACES_OF_A_RUN
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"adapters: {twice} are listed twice; give each its own `name`")
    if needed > config.max_adapters:
        raise ConfigError(
            f"adapters need {needed} places (a followed run {PLACES_OF_A_RUN}), max_adapters={config.max_adapters}; "
            "raise it"
        )
