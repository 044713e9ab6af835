"""Puts configs/ into the wheel as polyray/configs; pyproject.toml has everything else."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["polyray", "polyray.*"]), "polyray.configs"],
    package_dir={"polyray.configs": "configs"},
)
