"""Publishable parts of a run: adapter, base, configuration, data and evaluation.

Reads a run directory; nothing is loaded and nothing fetched. Called by polyray export; model_card.py puts it
into words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from polyray.config.model import ModelSpec
from polyray.errors import ConfigError
from polyray.models.adapter_files import WEIGHTS_FILE, read_adapter
from polyray.models.base_files import MANIFEST, hub_name
from polyray.runs.data_record import data_files, recorded_data, sha256_of
from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths

SECTIONS = (
    "seed", "model", "task", "data", "reward", "diversity", "objective", "algorithm", "supervised", "rollout",
    "learner", "demonstrations_per_step", "epochs", "max_tokens",
)  # fmt: skip
"""Sections of a configuration that determine the weights."""
LEFT_OUT = frozenset(
    {"cache_dir", "cache_path", "checkpoint_storage", "service", "client", "url", "base_url", "simulation"}
)
"""Machines and addresses, which say nothing about the weights."""


@dataclass(frozen=True, slots=True)
class RunAdapter:
    """One adapter of one run.

    Example:
        RunAdapter(run="runs/first", which="final", directory=Path("runs/first/adapter"), content=b"...",
                   config={...}, manifest={"base_sha256": ..., "adapter_sha256": ...}, run_config={...})
    """

    run: Path
    which: str
    directory: Path
    content: bytes
    """Bytes of adapter_model.safetensors."""
    config: dict[str, Any]
    """adapter_config.json."""
    manifest: dict[str, Any]
    run_config: dict[str, Any]
    """The run's resolved configuration."""
    finished: bool = True
    """False: the run still runs, or was stopped; `run_config` has its planned length."""

    @property
    def sha256(self) -> str:
        """sha256 of the weights."""
        return self.manifest["adapter_sha256"]

    @property
    def model(self) -> ModelSpec:
        """The base it was trained on."""
        return ModelSpec.model_validate(self.run_config["model"])

    @property
    def base_name(self) -> str | None:
        """The name on the hub of the model that all began with; None where it is a directory or polyray's own."""
        return hub_name(self.model.path)

    @property
    def on_merged_base(self) -> bool:
        """Whether it loads on no published model, but on one that a warm start was merged into."""
        return self.model.warm_start is not None and self.model.warm_start_mode == "merge_then_fresh"


def adapter_of_run(run: Path, *, best: bool = False, version: int | None = None) -> RunAdapter:
    """The final adapter, the best validated one, or a version's. ConfigError where there is none: a run that is being
    made longer has no final one until it ends."""
    paths = RunPaths(run)
    if not paths.config.is_file():
        raise ConfigError(f"{run} is not a run: config.json is missing; give a directory like runs/NAME")
    run_config = json.loads(paths.config.read_text(encoding="utf-8"))
    if version is not None:
        which, directory = f"version {version}", paths.versions / str(version)
    else:
        which, directory = ("best", paths.best) if best else ("final", paths.adapter)
    if "model" not in run_config or not (directory / WEIGHTS_FILE).is_file():
        raise ConfigError(f"{run} has no {which} adapter ({directory} is not there); {_what_there_is(paths)}")
    finished = paths.done.is_file()
    if which == "final" and not finished:
        raise ConfigError(
            f"{run} has not come to its end (DONE is not there): {directory} is the adapter of an earlier, shorter "
            f"run; {' or '.join(['start its command again and let it end', *_not_final(paths)])}"
        )
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    content, config = read_adapter(directory, manifest["base_sha256"])
    return RunAdapter(run, which, directory, content, config, manifest, run_config, finished)


def _what_there_is(paths: RunPaths) -> str:
    final = (paths.adapter / WEIGHTS_FILE).is_file() and paths.done.is_file()
    found = [*(["the final one"] if final else []), *_not_final(paths)]
    trials = sorted(str(entry) for entry in (paths.root / "trials").glob("*"))
    if trials:
        return f"it is a sweep: give one of its trials, e.g. {trials[0]}"
    if found:
        return f"there is {', '.join(found)}"
    return "train it first: an adapter is written when a run of polyray sft or polyray train ends"


def _not_final(paths: RunPaths) -> list[str]:
    """The options that lead to the other adapters of a run."""
    best = ["--best"] if (paths.best / WEIGHTS_FILE).is_file() else []
    numbers = sorted(int(entry.name) for entry in paths.versions.glob("*") if entry.name.isdigit())
    return [*best, *(f"--version {number}" for number in numbers)]


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that determine the weights, without unset ones, addresses, and the beginnings of absolute paths."""
    return {key: _public(config[key]) for key in SECTIONS if config.get(key) is not None}


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        shown = {key: entry for key, entry in value.items() if key not in LEFT_OUT and entry is not None}
        return {key: _public(entry) for key, entry in shown.items()}
    if isinstance(value, list):
        return [_public(entry) for entry in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return "/".join(Path(value).parts[-2:])
    return value


def data_hashes(run: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Training data -> sha256: `task` and `data` as configured, and every file that they name.

    For a file it is the hash that the run recorded at its starts. Without a record it is the hash of the current
    file, and is marked as such. polyray's own data follow from the configuration.
    """
    asked = {key: config[key] for key in ("task", "data") if config.get(key) is not None}
    encoded = json.dumps(_public(asked), sort_keys=True).encode()
    hashes = {"configuration of task and data": hashlib.sha256(encoded).hexdigest()}
    recorded = recorded_data(RunPaths(run).data)
    for key, file in data_files(config).items():
        if key in recorded:
            known = ", from a later start on ".join(recorded[key])
        elif file.exists():
            known = f"{sha256_of(file)} as the file is at this export; the run recorded none"
        else:
            known = "no such file at this export; the run recorded none"
        hashes[f"{key} ({file.name})"] = known
    return hashes


@dataclass(frozen=True, slots=True)
class Measured:
    """Evaluation of one adapter, e.g. Measured("runs/evaluation", "polychromic", {...})."""

    run: Path
    arm: str
    metrics: dict[str, Any]
    """The whole metrics.json; those of the arm are metrics["models"][arm]."""


def find_evaluation(adapter: RunAdapter, named: Path | None = None) -> Measured | None:
    """The newest evaluation beside the run (or the `named` one) that sampled exactly these weights.

    Raises ConfigError where `named` is none, or sampled other weights.
    """
    runs = [named] if named is not None else [adapter.run, *adapter.run.resolve().parent.iterdir()]
    found = [RunPaths(run).evaluation / "metrics.json" for run in runs]
    for file in sorted(filter(Path.is_file, found), key=lambda file: file.stat().st_mtime, reverse=True):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        arm = _arm_with(file.with_name("samples.jsonl"), adapter.sha256)
        if arm in metrics.get("models", {}):  # an evaluation of a reward model has none
            return Measured(file.parent.parent, arm, metrics)
    if named is not None:
        raise ConfigError(
            f"{named} did not evaluate the {adapter.which} adapter of {adapter.run} (sha256 {adapter.sha256[:12]}); "
            "give the run of polyray evaluate that did, or leave --evaluation out"
        )
    return None


def _arm_with(samples: Path, sha256: str) -> str:
    """The first arm with samples from these weights; "" without one."""
    if samples.is_file():
        with samples.open(encoding="utf-8") as lines:
            for line in lines:
                if sha256 in line and line.endswith("\n"):  # else the line is torn
                    record = json.loads(line)
                    if record["adapter_sha256"] == sha256:
                        return str(record["model"])
    return ""


def last_line(path: Path) -> dict[str, Any]:
    """Last line of a log of JSON lines; empty without one."""
    lines = read_jsonl(path)
    return dict(lines[-1]) if lines else {}


def licence_in(model_dir: Path | None) -> str | None:
    """Licence in the base's own card; None without a card, or if it names none."""
    card = model_dir / "README.md" if model_dir is not None else None
    if card is None or not card.is_file():
        return None
    opening, _, rest = card.read_text(encoding="utf-8").partition("---\n")
    front, closed, _ = rest.partition("\n---")
    if opening.strip() or not closed:
        return None
    try:
        values = yaml.safe_load(front)
    except yaml.YAMLError:
        return None
    licence = values.get("license") if isinstance(values, dict) else None
    if licence == "other" and isinstance(values, dict):
        licence = values.get("license_name") or licence
    return licence if isinstance(licence, str) else None
