"""Errors for packages of extras that are not installed name the extra."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from polyray import extensions
from polyray.config.judge import JudgeSpec
from polyray.errors import EXIT_USER_ERROR, ConfigError
from polyray.extensions import EXTRAS, find, naming_the_extra
from polyray.shelf.judge.runner import build_provider

CLUSTERS = "polyray.shelf.research.mechanistic.clusters"
"""A module that imports scikit-learn where it is imported."""


def remove(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Hide an installed package in this process."""
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", EXTRAS)
def test_missing_package_of_an_extra_is_an_error_that_names_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(monkeypatch, package)
    with pytest.raises(ConfigError) as raised, naming_the_extra():
        import_module(package)
    for word in (package, *(f"'polyray[{extra}]'" for extra in EXTRAS[package])):
        assert word in str(raised.value)


def test_missing_package_of_no_extra_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch, "yaml")
    with pytest.raises(ModuleNotFoundError), naming_the_extra():
        import_module("yaml")


def test_extension_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch, "sklearn")
    monkeypatch.delitem(sys.modules, CLUSTERS, raising=False)
    monkeypatch.setitem(extensions._OFFERED, ("reward", "clusters"), f"{CLUSTERS}:cluster_states")
    with pytest.raises(ConfigError, match=r"sklearn .*polyray\[research\]"):
        find("reward", "clusters")


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_judge_without_its_client_names_the_extra(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYRAY_TEST_KEY", "key")
    remove(monkeypatch, provider)
    spec = JudgeSpec.model_validate({"provider": provider, "model": "m", "api_key_env": "POLYRAY_TEST_KEY"})
    with pytest.raises(ConfigError, match=rf"{provider} .*polyray\[judge\]"):
        build_provider(spec)


@pytest.mark.parametrize("package", ["py3langid", "datasketch"])
def test_command_without_its_package_ends_with_the_extra(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; import polyray.cli.__main__ as m; m.run_console()"
    )
    command = [sys.executable, "-c", program, "curate", "data", "configs/curate/stack_exchange.yaml"]
    done = subprocess.run(
        [*command, f"runs_dir={tmp_path}"], capture_output=True, text=True, timeout=120, check=False
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == EXIT_USER_ERROR and line.startswith("error: ")
    assert package in line and "'polyray[preferences]'" in line
