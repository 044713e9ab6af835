"""The measures of the structure, on a small tree whose figures are known."""

from __future__ import annotations

from pathlib import Path

from benchmarks.structure import measure


def test_measure_small_tree_gives_known_figures(tmp_path: Path) -> None:
    files = {
        "polyray/__init__.py": "",
        "polyray/config/__init__.py": "class A:\n    x: int = 1\n    y: str\n",
        "polyray/a/__init__.py": "def f():\n    from polyray.b import g\n",
        "polyray/b/__init__.py": "",
        "polyray/b/g.py": "import polyray.a\n",
        "jobs/train.py": "from polyray.config import A\n",
        "tests/test_a.py": "\n\n",
        "README.md": "one\ntwo\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert measure(tmp_path) == {
        "source_lines": 7, "source_files": 6, "train_lines": 4, "test_lines": 2, "config_fields": 2,
        "two_way_pairs": ["polyray.a/polyray.b"], "import_cycle": True, "orchestrator_files": 0, "engine_lines": 0,
        "readme_lines": 2,
    }  # fmt: skip
