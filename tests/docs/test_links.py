"""Links within the built site lead somewhere; every public name has its entry with an example."""

import functools
import inspect
import posixpath
import re
from urllib.parse import unquote, urlsplit

import pytest
from built_site import PAGES, SITE, Tags, tags
from public_names import NOT_HERE, home, modules, names_of

parsed = functools.cache(tags)


def broken(page, links, found=parsed):
    """The links of a page that lead to no file of the site, or to no id in it."""
    wrong = []
    for link in links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path)))
        target = page if not parts.path else path
        anchor = unquote(parts.fragment)
        is_there = (SITE / target).is_file()
        if not is_there or (anchor and anchor not in found(target).ids | {"", "top"}):
            wrong.append(link)
    return wrong


def test_there_are_pages():
    assert {"index.html", "search.html", "results.html", "mathematics.html"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert broken(page, parsed(page).links) == []


def test_a_broken_link_is_noticed():
    links = ["gone.html", "index.html#gone", "#gone", "index.html", "https://jax.dev", "#there"]
    there = Tags('<p id="there">')
    assert broken("index.html", links, lambda page: there) == links[:3]


def test_pages_load_nothing_from_elsewhere():
    loading = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*")
    found = {page: loading.findall((SITE / page).read_text("utf-8")) for page in PAGES}
    assert {page: links for page, links in found.items() if links} == {}
    for path in SITE.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text("utf-8")), path


@pytest.mark.parametrize("page", PAGES)
def test_nothing_was_written_to_stderr(page):
    assert not {"stderr", "traceback"} & parsed(page).classes


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_every_public_name_has_an_entry(module):
    """Its own page links to the entry, which shows an example."""
    page = f"reference/{module.__name__}.html"
    for name, value in names_of(module).items():
        if inspect.ismodule(value):
            is_here = not value.__name__.endswith(NOT_HERE)
            assert not is_here or f"{value.__name__}.html" in parsed(page).links, name
            continue
        path = home(name, value)
        target = f"{path.rpartition('.')[0]}.html"
        links = parsed(page).links
        assert f"#{path}" in links or f"{target}#{path}" in links, name
        text = (SITE / "reference" / target).read_text("utf-8")
        shown = text.partition(f'id="{path}"')[2].partition('class="sig sig-object py" id="')[0]
        assert "&gt;&gt;&gt;" in shown, name
