"""Sending an exported directory to a model hub. The token comes from the environment and is never shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

from polyray.errors import ConfigError

TOKEN_VARIABLE = "HF_TOKEN"
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def check_push(name: str) -> None:
    """Whether a push could begin, before anything is written: ConfigError for a bad name, or no token."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"--push {name}: the hub's names are OWNER/NAME, e.g. me/my-adapter")
    if not os.environ.get(TOKEN_VARIABLE):
        raise ConfigError(
            f"--push {name} needs a token that may write: set {TOKEN_VARIABLE} in the environment (never on the "
            "command line or in a file of this repository)"
        )


def push(directory: Path, name: str, *, public: bool = False) -> str:
    """Uploads the directory as one commit, into a new private repository or one that is there; returns its address.

    Raises ConfigError where the hub refuses; the directory stays as it is.
    """
    from huggingface_hub import HfApi

    check_push(name)
    token = os.environ[TOKEN_VARIABLE]
    api = HfApi(token=token)
    try:
        repository = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=directory, commit_message="Export of polyray")
    except (
        Exception
    ) as error:  # the hub client raises anything from its own errors to those of the HTTP library
        reason = str(error).replace(token, "***").strip().splitlines()
        raise ConfigError(
            f"the hub refused {name} ({type(error).__name__}: {reason[0] if reason else 'no message'}); the export "
            f"is complete in {directory}: repeat the push, with a token that may write there"
        ) from None
    return str(repository)
