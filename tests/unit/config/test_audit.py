"""The offline audit of dependencies: what it finds, and that what is pinned here passes it."""

from __future__ import annotations

import re
from email.message import Message
from typing import Any

import pytest

from requirements import audit
from requirements.audit import (
    Package,
    is_allowed,
    left_out,
    licence_of,
    unknown_licences,
    unmet,
    wrong_versions,
)


def packages(*given: Package) -> dict[str, Package]:
    return {package.name: package for package in given}


def test_wrong_versions_lists_installed_and_missing_pins() -> None:
    pins = audit.pins_in("# made\nA_b==1.0\nc==2.0+cpu\nd==3\n")
    assert pins == {"a-b": "1.0", "c": "2.0+cpu", "d": "3"}
    there = packages(Package("a-b", "1.0"), Package("c", "2.0"))
    other, missing = wrong_versions(pins, there)
    assert re.search(r"^c 2\.0 .*\b2\.0\+cpu\b", other) and missing.startswith("d==3 ")


def test_unmet_lists_missing_dependencies() -> None:
    asks = Package(
        "a", "1", ("b>=2", "c", "torchvision", "d; extra == 'more'", "e; python_version < '3'", "F.g<2")
    )
    there = packages(asks, Package("b", "1.9"), Package("f-g", "1.5"))
    never = left_out("torch==2.13.0\n# torchvision\ntorchvision ; sys_platform == 'never'\n")
    assert never == {"torchvision"}
    old, missing = unmet(there, never)
    assert re.search(r"^a .*\bb>=2 .*\b1\.9\b", old) and re.search(r"^a .*\bc\b", missing)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("(GPL-2.0-only OR ISC) AND BSD-3-Clause", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only WITH GCC-exception-3.1", False),
        ("Other/Proprietary License", False),
        ("", False),
    ],
)
def test_licences(licence: str, allowed: bool) -> None:
    assert is_allowed(licence) is allowed


def test_unknown_licence_is_named() -> None:
    there = packages(
        Package("a", "1", licence="MIT"),
        Package("b", "1"),
        Package("pycountry", "1", licence="LGPL-2.1-only"),
    )
    (unknown,) = unknown_licences(there)
    assert unknown.startswith("b ")


def test_licence_is_read_from_each_metadata_field() -> None:
    def said(*fields: tuple[str, str]) -> str:
        about: Any = Message()
        for key, value in fields:
            about[key] = value
        return licence_of(about)

    classifier = "License :: OSI Approved :: MIT License"
    assert said(("License-Expression", "ISC"), ("Classifier", classifier), ("License", "x")) == "ISC"
    assert said(("Classifier", classifier), ("License", "x")) == "MIT License"
    assert said(("Classifier", classifier), ("Classifier", "License :: OSI Approved :: BSD License")) == (
        "MIT License AND BSD License"
    )
    assert said(("Classifier", "License :: OSI Approved"), ("License", "ISC\nmore")) == "ISC"
    assert said(("Classifier", "Topic :: Software")) == ""


def test_reviewed_packages_are_still_needed() -> None:
    pins = audit.pins_in(audit.PINS.read_text())
    assert sorted(set(audit.REVIEWED) - set(pins)) == []
