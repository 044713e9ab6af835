"""Follows the configuration of a training run from its file to the start of the coordinator.

    python -m benchmarks.walk

Runs `polyray train` on simulated engines up to its coordinator, and notes every function outside polyray/config that
is given the configuration, a part of it, or a plan that was made from it. Prints the route and two figures: the files
on it, and the climbs, which are steps to a file of a higher layer (the layers of import-linter in pyproject.toml).
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = "configs/train/hidden_trap_grid.yaml"
PLANS = ("RunPlan", "FleetPlan", "RewardPlan", "EngineSettings", "Scoring")


class Arrived(Exception):
    """Raised in place of the coordinator's start."""


class Walk:
    """Profile function that notes (file, function) of each call that is given a configuration."""

    def __init__(self) -> None:
        """Starts empty."""
        self.stays: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Notes one call; methods of a configuration itself do not count."""
        code = frame.f_code
        if event != "call" or "/polyray/" not in code.co_filename or "/polyray/config/" in code.co_filename:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(_is_config(frame.f_locals.get(name)) for name in names if name not in ("self", "cls")):
            file = str(Path(code.co_filename).relative_to(ROOT))
            if not self.stays or self.stays[-1][0] != file:
                self.stays.append((file, code.co_qualname))


def _is_config(value: object) -> bool:
    from polyray.config.base import StrictModel

    return isinstance(value, StrictModel) or type(value).__name__ in PLANS


def layers() -> dict[str, int]:
    """Package -> height, from the contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {name.strip(): height for height, row in enumerate(reversed(rows)) for name in row.split("|")}


def walk() -> list[tuple[str, str]]:
    """The (file, function) that the configuration enters, one after the other."""
    from polyray.config.loader import build_config, load_config
    from polyray.config.run import PretrainConfig, TrainConfig
    from polyray.launch import train
    from polyray.learner.embedded import build_embedded

    def arrive(*_: object) -> None:
        sys.setprofile(None)
        raise Arrived

    route = Walk()
    with tempfile.TemporaryDirectory(prefix="polyray-walk-") as work:
        build_embedded(build_config(PretrainConfig, {"cache_dir": work, "steps": 1}), lambda *_: None)
        overrides = [f"runs_dir={work}", f"model.cache_dir={work}", "model.warm_start=null"]
        overrides += [
            "algorithm=@grpo",
            "rollout.engine=simulated",
            "learner.steps=1",
            "reward.service.port=0",
        ]
        config = load_config(TrainConfig, str(ROOT / CONFIG), overrides)
        train._start_coordinator = arrive
        sys.setprofile(route)
        try:
            train.run_training(config)
        except Arrived:
            pass
        finally:
            sys.setprofile(None)
    return route.stays


def main() -> int:
    """Prints the route and its figures."""
    stays, heights = walk(), layers()

    def height(file: str) -> int:
        return heights[".".join(Path(file).with_suffix("").parts[:2])]

    for file, function in stays:
        print(f"{height(file):3d}  {file}  {function}")
    files = [file for file, _ in stays]
    climbs = sum(height(after) > height(before) for before, after in pairwise(files))
    print(f"{len(set(files))} files, {climbs} climbs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
