"""Every figure that a page draws is shown on the built page."""

import re
from pathlib import Path

import pytest
from built_site import SITE

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = {page.relative_to(DOCS): page.read_text("utf-8") for page in sorted(DOCS.rglob("*.md"))}
DRAWING = {
    page: text.count("plt.subplots(")
    for page, text in TEXTS.items()
    if "\n```{code-cell}" in text and "plt.subplots(" in text and page.parts[0] != "_build"
}


def shown(text):
    """How many pictures a page shows that its own code or text brings, not the theme."""
    return len(re.findall(r'<img\b[^>]*\bsrc="(?:\.\./)*_images/', text))


def test_there_are_pages_that_draw():
    assert len(DRAWING) >= 5


@pytest.mark.parametrize("page", DRAWING, ids=str)
def test_figures_are_on_the_page(page):
    assert shown((SITE / page).with_suffix(".html").read_text("utf-8")) >= DRAWING[page]


def test_a_picture_that_is_missing_is_noticed():
    assert shown('<img alt="logo" src="../_static/logo.svg"><p>&lt;Figure&gt;</p>') == 0
    assert shown('<img alt="a" src="_images/a.png"><img src="../_images/b.svg" />') == 2
