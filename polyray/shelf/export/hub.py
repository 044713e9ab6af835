"""Sending an exported directory to a model hub. The token comes from the environment and is never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Uploads the directory as one commit, into a new repository or one that is there; returns its address.

    Raises ConfigError where the hub refuses, and before anything is sent where the repository that is there is
    public and `public` was not said, or the other way round; the directory stays as it is.
    """
    from huggingface_hub import HfApi

    check_push(name)
    token = os.environ[TOKEN_VARIABLE]
    api = HfApi(token=token)
    with _refusals(directory, name, token):
        repository = api.create_repo(name, private=not public, exist_ok=True)
        is_private = api.repo_info(name).private is True
    if is_private == public:
        fix = "leave --public out, or change that on the hub" if public else "add --public if that is meant"
        raise ConfigError(
            f"{name} exists already and is {'private' if is_private else 'public, for all to see'}; nothing was "
            f"sent: {fix}, or push to another name"
        )
    with _refusals(directory, name, token):
        api.upload_folder(repo_id=name, folder_path=directory, commit_message="Export of polyray")
    return str(repository)


@contextmanager
def _refusals(directory: Path, name: str, token: str) -> Iterator[None]:
    try:
        yield
    except (
        Exception
    ) as error:  # the hub client raises anything from its own errors to those of the HTTP library
        reason = str(error).replace(token, "***").strip().splitlines()
        raise ConfigError(
            f"the hub refused {name} ({type(error).__name__}: {reason[0] if reason else 'no message'}); the export "
            f"is complete in {directory}: start the same command again, with a token that may write there"
        ) from None
