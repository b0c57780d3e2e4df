from __future__ import annotations

from pathlib import Path

from nightbatch.config import Config
from nightbatch.config.reference import TABLES, refreshed

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_has_every_key_as_it_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    again = "python -m nightbatch.config.reference docs/configuration.md"
    assert refreshed(text) == text, f"the tables have changed: {again}"


def test_every_section_has_a_table() -> None:
    titled = " ".join(title for title, _, _ in TABLES)
    assert [name for name in Config.model_fields if name not in titled and name != "aliases"] == []


def test_every_key_says_what_it_is() -> None:
    silent = [
        f"{title} {name}"
        for title, section, _ in TABLES
        for name, field in section.model_fields.items()
        if not field.description
    ]
    assert silent == []
