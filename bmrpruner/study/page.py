"""Parts of self-contained HTML pages, readable on a phone: the page, tables, pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
img { width: 100%; height: auto; background: white; }
figure { margin: 2rem 0; }
figcaption, p.note { color: gray; font-size: .9rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .4rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
@media (max-width: 45rem) {
  thead { display: none; }
  tr { display: block; margin-bottom: 1rem; }
  td { display: flex; justify-content: space-between; border: 0; }
  td::before { content: attr(data-label); color: gray; }
  td:first-child { font-weight: bold; border-bottom: 1px solid #8884; }
  td:first-child::before { content: none; }
}
"""


def page(title: str, note: str, body: str) -> str:
    """A whole page.

    Args:
      title: Text, of the page and above it.
      note: Text in small letters below the title.
      body: HTML.

    Example:
      >>> page('Sizes', 'of a < b', '').startswith('<!doctype html>')
      True
    """
    title, note = html.escape(title), html.escape(note)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="note">{note}</p>
{body}
</body>
</html>
"""


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a column for each name; on narrow screens, a block for each row.

    Example:
      >>> table(['leaf'], [['a&b']])[-66:]
      '<tbody><tr><td data-label="leaf">a&amp;b</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(_row(names, cells) for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(names: Sequence[str], cells: Sequence[str]) -> str:
    inner = "".join(
        f'<td data-label="{html.escape(name)}">{html.escape(cell)}</td>'
        for name, cell in zip(names, cells, strict=True)
    )
    return f"<tr>{inner}</tr>"


def figure(caption: str, data: bytes) -> str:
    """A PNG file within the page, with a caption.

    Example:
      >>> figure('Shapes', b'PNG')[:35]
      '<figure><img alt="Shapes" src="data'
    """
    source = base64.b64encode(data).decode()
    caption = html.escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
