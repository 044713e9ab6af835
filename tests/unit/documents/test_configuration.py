"""docs/configuration.md: the same as the configuration models."""

from __future__ import annotations

from benchmarks.configuration_reference import COMMANDS, reference
from tests.unit.documents.document_text import anchors, links, read


def test_configuration_page_matches_the_models() -> None:
    assert read("docs/configuration.md") == reference(), "run python -m benchmarks.configuration_reference"


def test_configuration_page_links_lead_to_its_sections() -> None:
    text = reference()
    assert {link.lstrip("#") for link in links(text) if link.startswith("#")} <= anchors(text)


def test_configuration_page_names_every_key_of_every_file() -> None:
    text = reference()
    for model in COMMANDS.values():
        assert [name for name in model.model_fields if f"| `{name}` |" not in text] == []


def test_every_key_of_the_configuration_page_has_a_meaning() -> None:
    assert [
        line for line in reference().splitlines() if line.startswith("| `") and line.endswith("|  |")
    ] == []
