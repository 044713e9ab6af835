"""Imports of modules: configuration is light, mathematics loads neither Ray nor model libraries, and drivers and
the coordinator start without torch.

A fresh interpreter each, because the test process itself has loaded everything.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LIGHT = {"ray", "vllm", "transformers", "torch", "peft"}

PROBE = """
import importlib, json, pkgutil, sys
loaded = []
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    loaded.append(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(found.name)
        loaded.append(found.name)
print(json.dumps({"loaded": loaded, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def probe(*names: str) -> tuple[list[str], set[str]]:
    """Modules of ours that were imported, and every top-level package this brought into `sys.modules`."""
    command = [sys.executable, "-c", PROBE, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["loaded"], set(answer["modules"])


ALONE = """
import importlib, json, pkgutil, sys
import numpy, torch
before = {name.partition(".")[0] for name in sys.modules}
import polyray.algorithms
for found in pkgutil.walk_packages(polyray.algorithms.__path__, "polyray.algorithms."):
    importlib.import_module(found.name)
after = {name.partition(".")[0] for name in sys.modules}
ours = {".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("polyray.")}
print(json.dumps([sorted(after - before - sys.stdlib_module_names), sorted(ours)]))
"""


def test_algorithms_need_numpy_and_torch_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    packages, ours = json.loads(done.stdout)
    assert packages == ["polyray"]
    assert ours == ["polyray.algorithms", "polyray.errors", "polyray.metrics", "polyray.types"]


@pytest.mark.parametrize(
    ("names", "expected", "forbidden"),
    [
        ("polyray.types polyray.errors polyray.config", "polyray.config.loader polyray.config.run", LIGHT),
        ("polyray.metrics", "polyray.metrics.pass_at_k polyray.metrics.bootstrap", LIGHT),
        ("polyray.algorithms", "polyray.algorithms.set_credits polyray.algorithms.losses", LIGHT - {"torch"}),
        (
            "jobs.train polyray.launch.fleet polyray.orchestrator.coordinator polyray.launch.rl_worker",
            "polyray.launch.fleet polyray.orchestrator.coordinator",
            LIGHT - {"ray"},
        ),
    ],
)
def test_light_modules_load_no_heavy_package(names: str, expected: str, forbidden: set[str]) -> None:
    loaded, modules = probe(*names.split())
    assert set(expected.split()) <= set(loaded)
    assert "numpy" in modules
    assert not forbidden & modules


@pytest.mark.parametrize(
    "package",
    ["algorithms", "learner", "metrics", "models", "orchestrator", "rewards", "rollout", "weight_sync"],
)
def test_no_decision_depends_on_the_wall_clock(package: str) -> None:
    """A clock that jumps (NTP, a suspended machine) must move no deadline: all are measured by a monotonic one.

    A Retry-After header may be a date, which only the wall clock can read; the call's deadline bounds that pause.
    When a step ended is exported as Unix time, which alerts compare with Prometheus' clock; no run looks at it.
    """
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}
    found = [
        f"{path.relative_to(ROOT / 'polyray')}:{node.lineno}"
        for path in sorted((ROOT / "polyray" / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in wall
    ]
    shown = ("rewards/client.py:", "orchestrator/monitoring.py:")
    assert [place for place in found if not place.startswith(shown)] == []
