"""Looks at files that several jobs read, before anything starts (not a job itself). Needs neither torch nor Ray."""

from __future__ import annotations

import sys
from pathlib import Path

from polyray.config.model import LoraSpec, ModelSpec
from polyray.errors import MissingFile, MissingFiles
from polyray.models.adapter_files import read_adapter, read_warm_start
from polyray.models.base_files import base_fingerprint, is_hub_name, local_model_dir, resolve_model_dir


def check_base(model: ModelSpec, missing: MissingFiles, only_look: bool) -> Path | None:
    """Reads the fingerprints of the base and its warm start; returns the directory of the base if it is here.

    Raises ConfigError for what cannot be used; `missing` notes what is not there. With `only_look` a base of the hub
    that is not on this machine is named on stderr, not fetched.
    """
    model_dir: Path | None = None
    with missing.noted():
        if not (only_look and is_hub_name(model.path)):
            model_dir = resolve_model_dir(model)
        elif (model_dir := local_model_dir(model)) is None:
            print(
                f"note: model.path={model.path} is not on this machine; the job fetches it", file=sys.stderr
            )
    if model.warm_start is not None:
        continues = model.lora if model.warm_start_mode == "continue" else None
        check_adapter(Path(model.warm_start), model_dir, missing, continues)
    return model_dir


def check_adapter(
    directory: Path, model_dir: Path | None, missing: MissingFiles, continues: LoraSpec | None = None
) -> None:
    """Reads an adapter of the base in `model_dir`; `continues` is the configuration that trains it further.

    Raises ConfigError for one that does not fit; `missing` notes one that is not there.
    """
    with missing.noted():
        if model_dir is None:
            if not directory.exists():
                raise MissingFile(f"{directory}: no such file or directory; give the directory of an adapter")
        elif continues is not None:
            read_warm_start(directory, base_fingerprint(model_dir), continues)
        else:
            read_adapter(directory, base_fingerprint(model_dir))
