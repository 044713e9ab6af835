"""Paths in what polyray submit sends: which are there on a cluster, and which are not (not a job itself)."""

from __future__ import annotations

import io
import json
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

from polyray.config.paths import REPOSITORY_ROOT, SHIPPED
from polyray.errors import ConfigError, MissingFile

EXCLUDED = (
    "/.git", "/.venv", "/runs", "/data", "/shared", "/tests", "/docs", "/.ci", "*.egg-info", "__pycache__",
    ".*_cache", ".hypothesis", "*.safetensors", "*.gguf", "*.parquet", "*.jsonl.gz",
    ".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*", "id_ed25519*", ".netrc",
    ".git-credentials", "auth_token",
)  # fmt: skip
"""As in a .gitignore, whose own entries Ray leaves out by itself. The last two lines: where secrets usually are."""
OUTPUTS = ("--adapter", "--merged", "--out")
"""Options of jobs that name what is written. `analyze ablation` reads what its --adapter names, which is not sent
either where it is relative."""
WITHOUT_RUN = ("pretrain",)
"""Jobs whose files have a `runs_dir` that they do not write to."""


def working_dir() -> Path:
    """Directory that is sent: the clone, or with an installed wheel the current directory.

    Raises ConfigError for a home directory, whose files may be secrets.
    """
    directory = REPOSITORY_ROOT or Path.cwd()
    if directory in (Path.home(), Path("/")):
        raise ConfigError(f"all of {directory} would be sent; run polyray submit in a directory of its own")
    return directory


def refuse_paths_of_the_copy(
    job: str, arguments: Sequence[str], config: Mapping[str, Any], written: Mapping[str, str]
) -> None:
    """ConfigError for paths in the copy of the repository in which a submitted job runs and which Ray removes: what
    is written to a relative one, and what is not sent.

    `config` is what the job's --check shows, empty where it has none; `written` says what stood there for its paths
    that were not written absolute.
    """
    config = _as_written(config, written)
    seen = [*_texts(config), *(_texts(_as_written(_first_trial(config), written)) if job == "sweep" else ())]
    texts = [*arguments, *(f"{key}={text}" for key, text in seen if key != "runs_dir")]
    problems = [
        f"{written} is relative: the job runs in a copy of the repository, which Ray removes with all that was "
        f"written there; {fix}, a directory that all machines of the cluster see"
        for written, fix in _relative_outputs(job, arguments, config)
    ]
    problems += [
        f"{text}: {path.partition('/')[0]}/ is not sent with a job; put it where all machines of the cluster see it "
        f"and give that path, e.g. /shared/{path}"
        for text in dict.fromkeys(texts)
        if "://" not in text and _is_left_out(path := posixpath.normpath(text.partition("=")[2] or text))
    ]
    if problems:
        raise ConfigError("\n  ".join(problems))


def _relative_outputs(
    job: str, arguments: Sequence[str], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """(what would be lost, what to give instead)."""
    runs_dir = config.get("runs_dir")
    if isinstance(runs_dir, str) and not runs_dir.startswith("/") and job not in WITHOUT_RUN:
        yield f"runs_dir={runs_dir}", "add runs_dir=/shared/runs"
    if "--push" in arguments:  # what counts lies on the hub then
        return
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for option, value in pairwise(words):
        if option in OUTPUTS and not value.startswith(("/", "--")) and "://" not in value:
            yield f"{option} {value}", f"give {option} /shared/{posixpath.basename(value)}"


def _first_trial(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a sweep's trials start from; their files are named by the training run's, which --check does not show."""
    from polyray.config.base import as_json
    from polyray.config.loader import build_config
    from polyray.config.sweep import SweepConfig
    from polyray.sweeps.plan import plan_trials

    plans = plan_trials(build_config(SweepConfig, dict(config)))
    return as_json(plans[0].config) if plans else {}


def refuse_another_directory(written: Mapping[str, str], arguments: Sequence[str]) -> None:
    """ConfigError where relative paths mean something else to the job: it runs in a copy of the repository."""
    sent = working_dir()
    if Path.cwd() == sent:
        return
    relative = [text for text in written.values() if not text.startswith(("~", SHIPPED)) and text != "runs"]
    relative += [
        text for text in arguments if "=" not in text and Path(text).exists() and text[:1] not in "/-"
    ]
    if relative:
        raise ConfigError(
            f"{relative[0]} is relative to {Path.cwd()}, but a job runs in a copy of {sent}; submit from "
            "there, or give the path of a directory that all machines of the cluster see"
        )


@contextmanager
def files_left_to_the_cluster(printed: io.StringIO, written: Mapping[str, str]) -> Iterator[None]:
    """Around a job's --check, which prints the configuration into `printed`: a file that is not on this machine is
    the cluster's affair, with a note on stderr. One by a relative path would be sent with the job: still an error.
    """
    try:
        yield
    except MissingFile as missing:
        sent = [path for path in missing.paths if _is_sent(path, written)]
        if sent:
            raise
        config = json.loads(printed.getvalue())["config"]
        for path in missing.paths:
            keys = [f"{key}=" for key, text in _texts(config) if text == path]
            print(
                f"note: {(keys or [''])[0]}{path} is not on this machine: the job will look for it on the cluster",
                file=sys.stderr,
            )


def _is_sent(path: str, written: Mapping[str, str]) -> bool:
    """Whether a file would be sent with the job if it were there; what is left out is refused later, with its key."""
    texts = [
        text for absolute, text in written.items() if absolute == path or absolute.rpartition(":")[0] == path
    ]
    return any(not text.startswith("~") and not _is_left_out(posixpath.normpath(text)) for text in texts)


def _as_written(value: Any, written: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return written.get(value, value)
    if isinstance(value, Mapping):
        return {name: _as_written(inner, written) for name, inner in value.items() if name != "base_dir"}
    return [_as_written(inner, written) for inner in value] if isinstance(value, list) else value


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in a configuration; the items of a list have its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def _is_left_out(path: str) -> bool:
    """Whether it is a relative path of two parts or more that EXCLUDED matches; a single word may be anything."""
    parts = path.split("/")
    if path.startswith(("/", "~")) or len(parts) == 1:
        return False
    return any(
        fnmatchcase(part, pattern.removeprefix("/"))
        for pattern in EXCLUDED
        for part in (parts[:1] if pattern.startswith("/") else parts)
    )
