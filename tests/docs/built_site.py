"""The built site: its pages, and what their tags say."""

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

if "BMRPRUNER_SITE" not in os.environ:
    pytest.skip("the built site: bash run.sh docs", allow_module_level=True)

SITE = Path(os.environ["BMRPRUNER_SITE"]).resolve()
# What is in _static are parts of pages.
PAGES = sorted(
    str(path.relative_to(SITE))
    for path in SITE.rglob("*.html")
    if path.relative_to(SITE).parts[0] != "_static"
)


class Tags(HTMLParser):
    """The ids of a page, and what it leads to or loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.classes = set(), [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if found.get(key)]
        self.classes |= set((found.get("class") or "").split())


def tags(page):
    """The tags of a page of the site."""
    return Tags((SITE / page).read_text(encoding="utf-8"))
