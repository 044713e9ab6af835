"""CITATION.cff agrees with the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import polyray

ROOT = Path(__file__).resolve().parents[2]


def test_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == polyray.__version__ == project["version"]
    assert citation["license"] == project["license"]
    assert citation["title"].startswith(project["name"])
    assert citation["authors"] and citation["message"]
