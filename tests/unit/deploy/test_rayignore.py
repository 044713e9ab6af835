"""Files that `ray job submit --working-dir .` sends, by Ray's own packaging."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.conftest import REPOSITORY_ROOT

SENT = ("polyray/__init__.py", "jobs/train.py", "configs/train/math.yaml", "polyray/config/tokens.py")
LEFT_OUT = (
    ".env", ".env.local", "deploy/prod.env", "server.pem", "configs/api.key", ".ssh/id_ed25519", ".netrc",
    "auth_token", ".git-credentials", "runs/first/DONE", "data/rows.jsonl", ".venv/bin/python", ".git/HEAD",
    "models/model.safetensors", "polyray/__pycache__/x.pyc",
)  # fmt: skip


@pytest.fixture
def sent(tmp_path: Path) -> set[str]:
    directory = tmp_path / "clone"
    for name in (*SENT, *LEFT_OUT):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("planted")
    for name in (".rayignore", ".gitignore"):
        shutil.copy(REPOSITORY_ROOT / name, directory)
    create_package(str(directory), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        return set(package.namelist())


def test_package_of_a_job_has_no_secrets_runs_or_environments(sent: set[str]) -> None:
    assert sent >= set(SENT)
    assert sent.isdisjoint(LEFT_OUT)
