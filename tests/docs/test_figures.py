"""The figures of the documentation: shown by a page, readable on light and on dark, for eyes and for screen readers."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = sorted((DOCS / "figures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
LEAST_CONTRAST = 4.5  # WCAG 2.1, AA


def colours(style: str) -> dict[str, str]:
    """What ``text`` and each class are filled with."""
    return dict(re.findall(r"\.?([\w-]+) \{[^}]*?fill: (#[0-9a-f]{6})", style))


def brightness(colour: str) -> float:
    """Relative luminance, as WCAG 2.1 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((brightness(one), brightness(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_can_be_read(path):
    root = ElementTree.fromstring(path.read_text())
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    assert len(root.findtext(f"{SVG}desc")) > 80
    assert root.findall(f".//{SVG}text")
    assert not re.search(r"<script|href|url\(|@import", path.read_text()), "it stands by itself"

    light, dark = root.findtext(f"{SVG}style").split("@media (prefers-color-scheme: dark)")
    for scheme in (colours(light), colours(dark)):
        for text in ("text", "note"):
            for ground in scheme.keys() & {"page", "box", "own"}:
                assert contrast(scheme[text], scheme[ground]) >= LEAST_CONTRAST, (text, ground)


def test_every_figure_is_shown_with_words_for_those_who_do_not_see_it():
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    shown = {figure: words for words, figure in re.findall(r"!\[([^]]*)\]\([./]*figures/([\w-]+\.svg)\)", pages)}
    assert shown.keys() == {path.name for path in FIGURES}
    assert all(len(words) > 40 for words in shown.values())
