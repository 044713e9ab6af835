"""The offline audit of dependencies."""

from __future__ import annotations

import re
from email.message import Message
from typing import Any

import pytest

from requirements import audit
from requirements.audit import Package


def test_installed_packages_are_compared_with_pins_and_requirements() -> None:
    pins = audit.pins_in("# made\nA_b==1.0\nc==2.0+cpu\nd==3\n")
    assert pins == {"a-b": "1.0", "c": "2.0+cpu", "d": "3"}
    asks = ("c>=2.1", "f", "torchvision", "g; extra == 'more'", "h; python_version < '3'", "A.b<2")
    there = {"a-b": Package("a-b", "1.0", asks), "c": Package("c", "2.0")}
    other, missing = audit.wrong_versions(pins, there)
    assert re.search(r"^c 2\.0 .*\b2\.0\+cpu\b", other) and missing.startswith("d==3 ")
    never = audit.left_out("torch==2.13.0\n# torchvision\ntorchvision ; sys_platform == 'never'\n")
    assert never == {"torchvision"}
    old, absent = audit.unmet(there, never)
    assert re.search(r"^a-b .*\bc>=2\.1 .*\b2\.0\b", old) and re.search(r"^a-b .*\bf\b", absent)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("(GPL-2.0-only OR ISC) AND BSD-3-Clause", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only WITH GCC-exception-3.1", False),
        ("Other/Proprietary License", False),
        ("", False),
    ],
)
def test_licence_expression_is_allowed_or_not(licence: str, allowed: bool) -> None:
    assert audit.is_allowed(licence) is allowed
    unknown = audit.unknown_licences({"b": Package("b", "1", licence=licence)})
    assert [line.split()[0] for line in unknown] == ([] if allowed else ["b"])


CLASSIFIER = "License :: OSI Approved :: MIT License"
BSD = "License :: OSI Approved :: BSD License"


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ((("License-Expression", "ISC"), ("Classifier", CLASSIFIER), ("License", "x")), "ISC"),
        ((("Classifier", CLASSIFIER), ("License", "x")), "MIT License"),
        ((("Classifier", CLASSIFIER), ("Classifier", BSD)), "MIT License AND BSD License"),
        ((("Classifier", "License :: OSI Approved"), ("License", "ISC\nmore")), "ISC"),
        ((("Classifier", "Topic :: Software"),), ""),
    ],
)
def test_licence_is_read_from_each_metadata_field(fields: tuple[tuple[str, str], ...], licence: str) -> None:
    about: Any = Message()
    for key, value in fields:
        about[key] = value
    assert audit.licence_of(about) == licence


def test_reviewed_packages_are_still_needed() -> None:
    pins = audit.pins_in(audit.PINS.read_text())
    assert sorted(set(audit.REVIEWED) - set(pins)) == []
