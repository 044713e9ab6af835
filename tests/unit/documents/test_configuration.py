"""docs/configuration.md: the same as the configuration models."""

from __future__ import annotations

from benchmarks.configuration_reference import COMMANDS, reference
from tests.unit.documents.document_text import anchors, links, read


def test_configuration_page_matches_the_models() -> None:
    assert read("docs/configuration.md") == reference(), "run python -m benchmarks.configuration_reference"


def test_configuration_page_is_complete() -> None:
    text = reference()
    assert {link.lstrip("#") for link in links(text) if link.startswith("#")} <= anchors(text)
    for model in COMMANDS.values():
        assert [name for name in model.model_fields if f"| `{name}` |" not in text] == []
    assert [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")] == []
