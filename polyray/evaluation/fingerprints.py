"""fingerprints.json: hashes of everything that an evaluation's samples and scores were made from.

    {"base": sha256, "arms": {"Dr.GRPO": sha256}, "prompts": {"Dr.GRPO": sha256}, "reward": {...}, "data": {...}}

A path says where an adapter is, not which one it is: samples of an earlier start are used again only where the hashes
are the same. Called by pipeline.py before sampling, by jobs that show a finished evaluation, and by analyses that
load the adapters again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polyray.config.base import as_json
from polyray.config.checker import RewardThresholdCheckerSpec
from polyray.config.run import EvaluateConfig
from polyray.errors import ConfigError
from polyray.evaluation.arms import Arm
from polyray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from polyray.models.base_files import base_fingerprint, local_model_dir
from polyray.rewards.plan import reward_sha256
from polyray.runs.atomic import atomic_write_json
from polyray.runs.data_record import data_files, sha256_of
from polyray.runs.run_directory import config_difference

FINGERPRINTS_FILE = "fingerprints.json"
ABSENT = "(absent)"
"""Hash of files that are not on this machine; `config_difference` gives it to a key that one side lacks."""


def model_fingerprints(config: EvaluateConfig, arms: Sequence[Arm]) -> dict[str, Any]:
    """Hashes of the base and of each arm's adapter. Files that are not on this machine are left out."""
    model_dir = local_model_dir(config.model)
    found: dict[str, Any] = {"arms": {arm.name: _adapter_sha256(arm) for arm in arms}}
    return found if model_dir is None else {"base": base_fingerprint(model_dir), **found}


def fingerprints(config: EvaluateConfig, arms: Sequence[Arm]) -> dict[str, Any]:
    """`model_fingerprints`, and hashes of the prompts that arms are asked, of the reward and of the task's files."""
    rewards = [config.reward]
    if isinstance(config.checker, RewardThresholdCheckerSpec) and config.checker.reward is not None:
        rewards.append(config.checker.reward)
    files = {key: file for key, file in data_files(as_json(config)).items() if file.exists()}
    return {
        **model_fingerprints(config, arms),
        "prompts": {arm.name: _prompts_sha256(arm) for arm in arms},
        "reward": {name: digest for reward in rewards for name, digest in reward_sha256(reward).items()},
        "data": {key: sha256_of(file) for key, file in files.items()},
    }


def check_unchanged(directory: Path, found: Mapping[str, Any]) -> None:
    """Raises ConfigError where the evaluation in `directory` was made from something else than is there now.

    A hash that only one side has says nothing: the files may have been moved away since.
    """
    file = directory / FINGERPRINTS_FILE
    if not file.is_file():
        return
    recorded = json.loads(file.read_text(encoding="utf-8"))
    changed = {key: pair for key, pair in config_difference(recorded, found).items() if ABSENT not in pair}
    if changed:
        lines = "".join(
            f"\n  {key}: sha256 {str(old)[:12]} -> {str(new)[:12]}" for key, (old, new) in changed.items()
        )
        raise ConfigError(
            f"{directory} holds samples that were made from other files of the same names:{lines}\n"
            f"give this evaluation another name (name=...), or delete {directory.parent}"
        )


def claim(directory: Path, found: Mapping[str, Any]) -> None:
    """Writes the record before the first sample. Raises ConfigError where it would be another one."""
    check_unchanged(directory, found)
    file = directory / FINGERPRINTS_FILE
    if not file.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write_json(file, found)


def _adapter_sha256(arm: Arm) -> str:
    if arm.adapter_dir is None:
        return "none"
    files = [Path(arm.adapter_dir) / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    if not all(file.is_file() for file in files):
        return ABSENT
    return _sha256("".join(map(sha256_of, files)))


def _prompts_sha256(arm: Arm) -> str:
    return _sha256(json.dumps([asdict(prompt) for prompt in arm.asked_P], sort_keys=True, default=str))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
